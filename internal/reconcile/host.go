package reconcile

import (
	"context"
	"fmt"
	"slices"

	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// domainSeen is what is kept of a domain from one look to the next.
type domainSeen struct {
	watches []*xenstore.Watch
	ready   bool // it was in the last look
	fresh   bool // and is since then
}

// look reads what there is, and sees to it that changes of it are noticed. What it
// reads is watched before, so nothing is missed.
func (r *Reconciler) look(ctx context.Context) ([]domain, error) {
	all, err := r.tools.Domains(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.tools.Sweep(ctx, all); err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(d toolstack.Domain) bool { return d.ID == 0 })
	r.forget(all)
	var domains []domain
	for _, d := range all {
		if err := r.watch(ctx, d.ID); err != nil {
			return nil, err
		}
		found, err := r.examine(ctx, d)
		if err != nil {
			return nil, err
		}
		domains = append(domains, found)
	}
	return domains, nil
}

// sweep does what is to be done at the end of a domain, whatever is declared.
func (r *Reconciler) sweep(ctx context.Context) error {
	all, err := r.tools.Domains(ctx)
	if err != nil {
		return err
	}
	r.forget(slices.DeleteFunc(slices.Clone(all), func(d toolstack.Domain) bool { return d.ID == 0 }))
	return r.tools.Sweep(ctx, all)
}

// watch notices when a domain gets another name, as xl gives it at the end of a
// migration, and when its consoles come and go.
func (r *Reconciler) watch(ctx context.Context, id xen.DomID) error {
	if r.seen[id] != nil {
		return nil
	}
	seen := &domainSeen{}
	r.seen[id] = seen
	for _, path := range []string{fmt.Sprintf("/local/domain/%v/name", id), consoles(id)} {
		w, err := r.Store.Watch(ctx, path)
		if err != nil {
			return fmt.Errorf("watch domain %v: %w", id, err)
		}
		seen.watches = append(seen.watches, w)
		r.follow(w, r.changed)
	}
	return nil
}

func consoles(id xen.DomID) string { return fmt.Sprintf("/libxl/%v/device/console", id) }

// follow passes on what a watch reports, until it is closed.
func (r *Reconciler) follow(w *xenstore.Watch, to chan struct{}) {
	r.wg.Go(func() {
		for range w.C() {
			w.Take()
			poke(to)
		}
		poke(to) // the connection may be lost
	})
}

// forget lets go of domains that are not among these.
func (r *Reconciler) forget(left []toolstack.Domain) {
	for id, seen := range r.seen {
		if slices.ContainsFunc(left, func(d toolstack.Domain) bool { return d.ID == id }) {
			continue
		}
		for _, w := range seen.watches {
			w.Close()
		}
		delete(r.seen, id)
	}
}

// examine reads a domain's channels, and then what may be done to it: a domain
// that begins to be destroyed meanwhile has lost its primary console first.
func (r *Reconciler) examine(ctx context.Context, d toolstack.Domain) (domain, error) {
	found := domain{Domain: d, broken: make(map[string]bool)}
	var err error
	if found.channels, err = r.tools.Channels(ctx, d); err != nil {
		return found, err
	}
	v := xenstore.NewValues(ctx, r.Store)
	for _, c := range found.channels {
		if online, ok := v.Lookup(c.Backend + "/online"); !ok || online == "0" {
			found.broken[c.Name] = true
		}
	}
	home := fmt.Sprintf("/local/domain/%v", d.ID)
	_, stubdomain := v.Lookup(home + "/target")
	final, leaving := named(d.Name)
	found.Name = final
	switch {
	case stubdomain || d.Name == "" || leaving:
		found.phase = foreign
	case !made(v, d.ID):
		found.phase = inMaking
	}
	seen := r.seen[d.ID]
	seen.fresh = found.phase == ready && !seen.ready
	seen.ready = found.phase == ready
	return found, v.Err()
}

// made reports whether libxl has written the consoles that a domain is to have.
// It writes channels first and the primary console last (libxl_create.c,
// domcreate_launch_dm), so that nobody takes the number of another; and when it
// destroys a domain, it takes away what it wrote first (libxl__devices_destroy).
// Other toolstacks do not use /libxl: then there is nothing to wait for.
func made(v *xenstore.Values, id xen.DomID) bool {
	if _, ok := v.Lookup(consoles(id) + "/0"); ok {
		return true
	}
	if _, ok := v.Lookup(fmt.Sprintf("/libxl/%v", id)); !ok {
		return true
	}
	children := v.List(fmt.Sprintf("/libxl/%v", id))
	return len(children) == 1 && children[0] == "device" // only what we wrote
}

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/xenchan/xenchan/agent/firewall"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// renames are the domains whose name, which the agent firewall goes by, is to be looked
// at.
type renames struct {
	ready chan struct{} // capacity 1

	mu      sync.Mutex
	domains map[xen.DomID]bool // guarded by mu
}

func newRenames() *renames {
	return &renames{ready: make(chan struct{}, 1), domains: make(map[xen.DomID]bool)}
}

func (r *renames) mark(dom xen.DomID) {
	r.mu.Lock()
	r.domains[dom] = true
	r.mu.Unlock()
	poke(r.ready)
}

func (r *renames) take() map[xen.DomID]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.domains
	r.domains = make(map[xen.DomID]bool)
	return all
}

// followRules keeps the rules of all channels as the files and the names of domains are.
// Where the files say nothing, no name matters.
func (d *Daemon) followRules(ctx context.Context) error {
	named := make(map[xen.DomID][]*xenstore.Notice)
	defer func() {
		for dom := range named {
			forget(named, dom)
		}
	}()
	for {
		set, during := d.Firewall.Get()
		all := d.byDomain()
		for dom := range named {
			all[dom] = all[dom] // of no devices, if it has none any more
		}
		d.applyRules(ctx, set, all, named)
		for during.Err() == nil {
			select {
			case <-d.renamed.ready:
			case <-during.Done():
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
			changed := make(map[xen.DomID][]*device)
			all = d.byDomain()
			for dom := range d.renamed.take() {
				changed[dom] = all[dom]
			}
			d.applyRules(ctx, set, changed, named)
		}
	}
}

func (d *Daemon) byDomain() map[xen.DomID][]*device {
	all := make(map[xen.DomID][]*device)
	for _, dev := range d.snapshot() {
		all[dev.dom] = append(all[dev.dom], dev)
	}
	return all
}

// applyRules has devices heed the rules, and follows the names of their domains as long
// as it matters.
func (d *Daemon) applyRules(ctx context.Context, set *firewall.Set, domains map[xen.DomID][]*device, named map[xen.DomID][]*xenstore.Notice) {
	for dom, devices := range domains {
		var name, uuid string
		known := false
		switch {
		case set.Empty() || len(devices) == 0:
			forget(named, dom)
		default:
			if named[dom] == nil {
				named[dom] = d.followName(ctx, dom)
			}
			var err error
			if name, uuid, known, err = d.identity(ctx, dom); err != nil {
				continue // the store is gone, which others see too
			}
		}
		for _, dev := range devices {
			dev.heed(set, name, uuid, known)
		}
	}
}

func forget(named map[xen.DomID][]*xenstore.Notice, dom xen.DomID) {
	for _, n := range named[dom] {
		n.Close()
	}
	delete(named, dom)
}

// followName marks the domain when it is called something else.
func (d *Daemon) followName(ctx context.Context, dom xen.DomID) []*xenstore.Notice {
	all := []*xenstore.Notice{}
	for _, node := range []string{"name", "vm"} {
		n, err := d.Store.Notify(ctx, fmt.Sprintf("/local/domain/%v/%s", dom, node), func() { d.renamed.mark(dom) })
		if err == nil {
			all = append(all, n)
		} else if ctx.Err() == nil {
			d.Log.Warn("the agent firewall will not see a domain's new name", "domid", dom, "error", err)
		}
	}
	return all
}

// identity is the name of a domain and its uuid; not known when the domain is gone. A
// driver domain may not be allowed to read them, which is no name.
func (d *Daemon) identity(ctx context.Context, dom xen.DomID) (name, uuid string, known bool, err error) {
	home := fmt.Sprintf("/local/domain/%v", dom)
	v := xenstore.NewValues(ctx, d.Store)
	v.PrefetchBelow(home, "name", "vm")
	name, known = v.Lookup(home + "/name")
	uuid = v.Get(home + "/vm")
	if !known && v.Err() == nil {
		_, err = d.Store.Read(ctx, home+"/name")
		known = errors.Is(err, fs.ErrPermission)
	}
	name = strings.TrimSuffix(name, "--incoming") // as xl calls it until it has arrived
	return name, strings.TrimPrefix(uuid, "/vm/"), known, v.Err()
}

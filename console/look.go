package console

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenbus"
	"github.com/xenchan/xenchan/xenstore"
)

// see reads both halves in one transaction, so that ring-ref, port and state
// belong together. A guest that does not stop writing is taken by what was read: it
// must not keep us from looking, and if the parts do not fit, it gets what it offered.
func (b *Backend) see(ctx context.Context) (view xenbus.BackendView, now offer, err error) {
	var instance, note string
	tries := 0
	err = b.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		b.noticed()
		view, now = xenbus.BackendView{Attached: b.conn != nil}, offer{}
		r := xenstore.NewValues(ctx, tx)
		wanted := []string{
			b.Path + "/frontend", b.Path + "/online", b.Path + "/instance", b.Path + "/state",
			b.Frontend + "/ring-ref", b.Frontend + "/port", b.Frontend + "/state",
		}
		if b.Noted != nil {
			wanted = append(wanted, b.Frontend+"/"+b.Note)
		}
		r.Prefetch(wanted...)
		view.Exists = r.Get(b.Path+"/frontend") == b.Frontend
		view.Online = r.Get(b.Path+"/online") == "1"
		instance = r.Get(b.Path + "/instance")
		view.State = xenbus.ParseState(r.Get(b.Path + "/state"))
		f := &view.Frontend
		state, exists := r.Lookup(b.Frontend + "/state")
		f.State = xenbus.ParseState(state)
		if !exists { // a directory without a state is a frontend in an unknown state
			_, exists = r.Lookup(b.Frontend)
		}
		f.Exists = exists
		if b.Noted != nil {
			note = r.Get(b.Frontend + "/" + b.Note)
		}
		var refErr, portErr error
		now.ref, refErr = xen.ParseGrantRef(r.Get(b.Frontend + "/ring-ref"))
		now.port, portErr = xen.ParsePort(r.Get(b.Frontend + "/port"))
		f.Usable = refErr == nil && portErr == nil
		if tries++; tries > maxConflicts && r.Err() == nil {
			return errTorn
		}
		return r.Err()
	})
	if err != nil && !errors.Is(err, errTorn) {
		return view, now, fmt.Errorf("look at %s: %w", b.Path, err)
	}
	if b.Instance == "" {
		b.Instance = instance
	}
	if b.Noted != nil {
		b.Noted(note)
	}
	if view.Exists && instance != b.Instance {
		return view, now, ErrReplaced
	}
	view.Frontend.Same = b.conn != nil && now == b.ring
	view.Frontend.Failed = now == b.bad
	if view.Frontend.State == xenbus.Initialising || view.Frontend.State == xenbus.Closed {
		b.bad = offer{} // the guest starts anew: what it offers next is tried again
	}
	if !view.Exists {
		return view, now, nil
	}
	view.Exists, err = b.alive(ctx)
	return view, now, err
}

// noticed forgets the reasons to look that there are already: what is read from now
// on is newer.
func (b *Backend) noticed() {
	b.wanted.Store(false)
}

// alive asks whether the guest's domain is still there. A driver domain may not
// ask: it relies on its toolstack to remove the nodes.
func (b *Backend) alive(ctx context.Context) (bool, error) {
	alive, err := b.Store.IsIntroduced(ctx, b.DomID)
	if errors.Is(err, fs.ErrPermission) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask whether domain %v lives: %w", b.DomID, err)
	}
	return alive, nil
}

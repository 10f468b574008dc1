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

// Frontend is a guest's half of one console device for its whole life. It
// behaves in xenstore as Linux's hvc_xen does: it probes a device whose state is
// Initialising, offers a ring without waiting for the backend, and closes when
// the backend does.
type Frontend struct {
	Store      *xenstore.Store
	Hypervisor xen.Hypervisor
	Path       string // the frontend's directory

	// Attached is called when a ring is shared, whether or not a backend is
	// there yet, and Detached before the ring goes. Both may be nil.
	Attached func(*Conn)
	Detached func(*Conn)

	conn *Conn
}

// Run follows the device until its directory is gone (nil) or the context ends.
func (f *Frontend) Run(ctx context.Context) error {
	defer f.letGo()
	own, err := f.Store.Watch(ctx, f.Path+"/state")
	if err != nil {
		return err
	}
	defer own.Close()
	r := xenstore.NewValues(ctx, f.Store)
	backend := r.Get(f.Path + "/backend")
	if r.Err() != nil || backend == "" {
		return errors.Join(r.Err(), fmt.Errorf("%s/backend: no backend named", f.Path))
	}
	other, err := f.Store.Watch(ctx, backend+"/state")
	if err != nil {
		return err
	}
	defer other.Close()
	for {
		gone, err := f.step(ctx, backend)
		if err != nil || gone {
			return err
		}
		select {
		case _, ok := <-own.C():
			if !ok {
				return own.Err()
			}
			own.Take()
		case _, ok := <-other.C():
			if !ok {
				return other.Err()
			}
			other.Take()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *Frontend) step(ctx context.Context, backend string) (gone bool, err error) {
	r := xenstore.NewValues(ctx, f.Store)
	state, exists := r.Lookup(f.Path + "/state")
	view := xenbus.FrontendView{
		Exists:   exists,
		State:    xenbus.ParseState(state),
		Backend:  xenbus.ParseState(r.Get(backend + "/state")),
		Attached: f.conn != nil,
	}
	if r.Err() != nil {
		return false, r.Err()
	}
	step := xenbus.Frontend(view)
	switch step.Do {
	case xenbus.Forget:
		return true, nil
	case xenbus.Detach:
		f.letGo()
	case xenbus.Attach, xenbus.Reattach:
		f.letGo()
		if err := f.share(ctx); err != nil {
			return false, fmt.Errorf("share a ring for %s: %w", f.Path, err)
		}
	}
	if step.Publish == xenbus.Unknown || step.Publish == view.State {
		return false, nil
	}
	return false, f.publish(ctx, step.Publish)
}

// publish writes our state, but does not make a directory that was removed.
func (f *Frontend) publish(ctx context.Context, s xenbus.State) error {
	err := f.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		if _, err := tx.Read(ctx, f.Path+"/state"); err != nil {
			return err
		}
		return tx.Write(ctx, f.Path+"/state", s.Decimal())
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil // the watch on our state brings us back
	}
	return err
}

// share allocates a ring and publishes where it is.
func (f *Frontend) share(ctx context.Context) error {
	id, err := f.Store.Read(ctx, f.Path+"/backend-id")
	if err != nil {
		return err
	}
	dom, err := xen.ParseDomID(id)
	if err != nil {
		return err
	}
	pages, err := f.Hypervisor.SharePages(dom, 1)
	if err != nil {
		return err
	}
	event, err := f.Hypervisor.AllocUnbound(dom)
	if err != nil {
		return errors.Join(err, pages.Close())
	}
	ref, port := pages.Refs()[0], event.Port()
	if f.conn, err = AttachFrontend(pages, event); err != nil {
		f.conn = nil
		return err
	}
	if f.Attached != nil {
		f.Attached(f.conn)
	}
	return f.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		if err := tx.Write(ctx, f.Path+"/ring-ref", ref.String()); err != nil {
			return err
		}
		return tx.Write(ctx, f.Path+"/port", port.String())
	})
}

func (f *Frontend) letGo() {
	if f.conn == nil {
		return
	}
	if f.Detached != nil {
		f.Detached(f.conn)
	}
	f.conn.Close()
	f.conn = nil
}

package console

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/ring"
	"github.com/xenchan/xenchan/spool"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenbus"
	"github.com/xenchan/xenchan/xenstore"
)

// ErrReplaced ends [Backend.Run] when a toolstack has removed the device and made
// another in its place, before anybody could see that it was gone.
var ErrReplaced = errors.New("the device was made anew")

// Backend serves one console device: it follows the xenbus states of both
// halves, attaches the ring when the guest offers one, lets go when it must, and
// comes back when the guest does.
//
// Everything in the frontend's directory is the guest's to write, and is checked
// on every look. What the Backend trusts is its own directory and the fields here.
type Backend struct {
	Store      *xenstore.Store
	Hypervisor xen.Hypervisor

	Path     string    // the backend's directory
	Frontend string    // the frontend's directory, from the backend's node "frontend"
	DomID    xen.DomID // the guest, from the backend's node "frontend-id"
	// Instance is the backend's node "instance", which tells this device from
	// one that takes its place. When it is empty, Run takes what it finds first.
	Instance string

	// Sink takes what the guest sends, for as long as the device lives.
	Sink Sink
	// Source gives what [Conn.Feed] sends to the guest; nil if nobody calls that.
	Source Source
	// Attached is called when a ring has been attached, before the guest is
	// told, and Detached before it is let go. Both may be nil. They must not
	// block: while they run, nobody empties the guest's ring.
	Attached func(*Conn)
	Detached func(*Conn)
	// Note is the name of a further node in the frontend's directory, and Noted is
	// called with its value, empty if there is none, after each look. Both may be left out.
	Note  string
	Noted func(string)
	// Settled is called after each look at the nodes and what followed from it.
	Settled func()

	// Look asks Run to look at the nodes again: something changed below Path, or
	// a domain has gone. Its capacity is 1, so that who sends need not block; a
	// value that comes too late for Run stays there. NewBackend makes it if it is nil.
	Look chan struct{}
	// Nudge, unless nil, is received from between two looks, for who wants to know
	// whether Run goes round.
	Nudge <-chan struct{}

	Log *slog.Logger

	conn  *Conn
	ring  offer            // of conn
	bad   offer            // what could not be attached, not tried again
	retry <-chan time.Time // says when to try again what failed through no fault of the guest
	looks looks
	watch *xenstore.Watch // of the frontend's state
}

const (
	// retryAfter is when an attach is tried again for which the host had no means.
	retryAfter = time.Second
	// maxConflicts is how often a transaction over the guest's nodes is tried that
	// the guest, by writing without end, keeps from being committed.
	maxConflicts = 4
)

// errTorn says that what was read may not be of one moment.
var errTorn = errors.New("the guest writes faster than its nodes can be read")

// offer is what a frontend publishes about its ring.
type offer struct {
	ref  xen.GrantRef
	port xen.Port
}

// NewBackend prepares a Backend. Call Run.
func NewBackend(b Backend) *Backend {
	if b.Look == nil {
		b.Look = make(chan struct{}, 1)
	}
	if b.Log == nil {
		b.Log = slog.New(slog.DiscardHandler)
	}
	return &b
}

// Run serves the device until its nodes are gone (nil), are those of another
// device ([ErrReplaced]), or the context ends, when it leaves the nodes as they
// are: the guest does not notice, and the next Run goes on where this one stopped.
func (b *Backend) Run(ctx context.Context) error {
	defer func() {
		if b.conn != nil {
			b.detach()
		}
	}()
	watched := b.Frontend + "/state"
	if b.Noted != nil {
		watched = b.Frontend
	}
	watch, err := b.Store.Watch(ctx, watched)
	if err != nil {
		return fmt.Errorf("watch the frontend of %s: %w", b.Path, err)
	}
	defer watch.Close()
	b.watch = watch
	for {
		select {
		case <-time.After(b.looks.before(time.Now())):
		case <-ctx.Done():
			return ctx.Err()
		}
		gone, err := b.step(ctx)
		if err != nil || gone {
			return err
		}
		if b.Settled != nil {
			b.Settled()
		}
		if err := b.await(ctx, watch); err != nil {
			return err
		}
	}
}

// await returns when there is a reason to look.
func (b *Backend) await(ctx context.Context, watch *xenstore.Watch) error {
	var failed <-chan struct{}
	if b.conn != nil {
		failed = b.conn.Failed()
	}
	for {
		select {
		case _, ok := <-watch.C():
			if !ok {
				return watch.Err()
			}
			watch.Take()
		case <-b.Look:
		case <-b.retry:
			b.retry = nil
		case <-failed:
			b.broken(b.ring, b.conn.Err())
		case <-ctx.Done():
			return ctx.Err()
		case <-b.Nudge:
			continue
		}
		return nil
	}
}

// step looks at the nodes, does what the machine decides and publishes its state.
func (b *Backend) step(ctx context.Context) (gone bool, err error) {
	view, now, err := b.see(ctx)
	if errors.Is(err, ErrReplaced) {
		b.letGo()
	}
	if err != nil {
		return false, err
	}
	step := xenbus.Backend(view)
	switch step.Do {
	case xenbus.Forget:
		b.letGo()
		return true, nil
	case xenbus.Detach:
		b.letGo()
	case xenbus.Attach, xenbus.Reattach:
		b.letGo()
		err := b.attach(now)
		if errors.Is(err, syscall.ECONNRESET) { // an embedded host's hypervisor is gone
			return false, err
		}
		if err != nil && !guestsFault(err) {
			b.Log.Warn("cannot attach yet", "error", err, "again_in", retryAfter)
			b.retry = time.After(retryAfter)
			return false, nil
		}
		if err != nil {
			b.broken(now, fmt.Errorf("attach ring-ref %v, port %v: %w", now.ref, now.port, err))
			view.Frontend.Failed = true
			view.Attached = false
			step = xenbus.Backend(view)
		}
	}
	if step.Publish == xenbus.Unknown || step.Publish == view.State {
		return false, nil
	}
	b.Log.Debug("backend state", "from", view.State, "to", step.Publish, "frontend", view.Frontend.State)
	return false, b.publish(ctx, view.State, step.Publish)
}

// guestsFault says that an attach has failed because of what the guest offered: it
// was not granted, not allocated for us, or is not a ring. Else the host lacks
// something, such as memory or a free descriptor.
func guestsFault(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ESRCH) || errors.Is(err, ring.ErrCorrupt)
}

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
		ref, port := r.Get(b.Frontend+"/ring-ref"), r.Get(b.Frontend+"/port")
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
		now.ref, refErr = xen.ParseGrantRef(ref)
		now.port, portErr = xen.ParsePort(port)
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
	if view.Exists {
		view.Exists, err = b.alive(ctx)
	}
	return view, now, err
}

// noticed forgets the reasons to look that there are already: what is read from now
// on is newer.
func (b *Backend) noticed() {
	b.watch.Take()
	select {
	case <-b.Look:
	default:
	}
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

func (b *Backend) attach(o offer) error {
	pages, err := b.Hypervisor.MapGrants(b.DomID, o.ref)
	if err != nil {
		return err
	}
	event, err := b.Hypervisor.BindInterdomain(b.DomID, o.port)
	if err != nil {
		return errors.Join(err, pages.Close())
	}
	conn, err := AttachBackend(pages, event, b.Sink, b.Source, spool.RingID{Ref: uint32(o.ref), Port: uint32(o.port)})
	if err != nil {
		return err
	}
	b.conn, b.ring = conn, o
	if b.Attached != nil {
		b.Attached(conn)
	}
	b.Log.Info("attached", "ring_ref", o.ref, "port", o.port)
	return nil
}

// broken closes the channel of a guest that broke the protocol. What it offered
// is not tried again.
func (b *Backend) broken(o offer, err error) {
	b.bad = o
	b.Log.Warn("closing the console", "error", err)
	b.letGo()
}

// letGo takes the last bytes out of the ring and detaches it.
func (b *Backend) letGo() {
	if b.conn == nil {
		return
	}
	b.conn.HangUp()
	b.conn.Drain()
	b.detach()
}

// detach lets go of the ring with what is in it.
func (b *Backend) detach() {
	if b.Detached != nil {
		b.Detached(b.conn)
	}
	if err := b.conn.Close(); err != nil {
		b.Log.Warn("detach", "error", err)
	}
	b.conn = nil
}

// publish moves our state on, unless somebody else has changed it meanwhile or
// removed the directory: then we look again.
func (b *Backend) publish(ctx context.Context, from, to xenbus.State) error {
	err := b.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		r := xenstore.NewValues(ctx, tx)
		r.PrefetchBelow(b.Path, "instance", "state", "frontend")
		instance, state := r.Get(b.Path+"/instance"), r.Get(b.Path+"/state")
		switch {
		case r.Err() != nil:
			return r.Err()
		case r.Get(b.Path+"/frontend") != b.Frontend, instance != b.Instance, xenbus.ParseState(state) != from:
			wake(b.Look)
			return nil
		}
		return tx.Write(ctx, b.Path+"/state", to.Decimal())
	})
	if err != nil {
		return fmt.Errorf("publish the state of %s: %w", b.Path, err)
	}
	return nil
}

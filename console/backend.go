package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
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

	// Wake is called whenever a Step is wanted, by any goroutine, also during a Step. It
	// must neither block nor call the Backend or its Store. Run needs none.
	Wake func()

	// Aside, unless nil, calls a function that may take a second: when a ring is let go
	// of and its Sink is full.
	Aside func(func())

	Log *slog.Logger

	conn   *Conn
	ring   offer         // of conn
	bad    offer         // what could not be attached, not tried again
	due    chan struct{} // for Run
	wanted *atomic.Bool  // a look is wanted and has not begun
	later  *time.Timer   // wants one; nil while it was never needed
	looks  looks
	notice *xenstore.Notice // of the frontend
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

// NewBackend prepares a Backend. Call Run; or, so that many of them need few goroutines,
// Open, then Step as often as it is wanted, and Close.
func NewBackend(b Backend) *Backend {
	if b.Log == nil {
		b.Log = slog.New(slog.DiscardHandler)
	}
	if b.Wake == nil {
		b.due = make(chan struct{}, 1)
		b.Wake = func() { wake(b.due) }
	}
	b.wanted = new(atomic.Bool)
	return &b
}

// Run serves the device until its nodes are gone (nil), are those of another
// device ([ErrReplaced]), or the context ends, when it leaves the nodes as they
// are: the guest does not notice, and the next Run goes on where this one stopped.
func (b *Backend) Run(ctx context.Context) error {
	if err := b.Open(ctx); err != nil {
		return err
	}
	defer b.Close()
	for {
		select {
		case <-b.due:
		case <-ctx.Done():
			return ctx.Err()
		}
		if gone, err := b.Step(ctx); err != nil || gone {
			return err
		}
	}
}

// Open begins to follow the device, and wants the first Step.
func (b *Backend) Open(ctx context.Context) (err error) {
	watched := b.Frontend + "/state"
	if b.Noted != nil {
		watched = b.Frontend
	}
	if b.notice, err = b.Store.Notify(ctx, watched, b.Look); err != nil {
		return fmt.Errorf("watch the frontend of %s: %w", b.Path, err)
	}
	return nil
}

// Look wants another look at the nodes: something has changed below Path, or a domain
// has gone. It does not block, and may be called by any goroutine at any time.
func (b *Backend) Look() {
	if !b.wanted.Swap(true) {
		b.Wake()
	}
}

// Step looks at the device, if that is wanted, and does what follows from it; one Step at
// a time. It returns as Run does, and with false and nil for as long as the device is there.
func (b *Backend) Step(ctx context.Context) (gone bool, err error) {
	if err := ctx.Err(); err != nil || !b.wanted.Load() {
		return false, err
	}
	if pause := b.looks.before(time.Now()); pause > 0 {
		b.stepAfter(pause)
		return false, nil
	}
	if b.conn != nil && b.conn.Err() != nil {
		b.broken(b.ring, b.conn.Err())
	}
	if gone, err = b.step(ctx); err != nil || gone {
		return gone, err
	}
	if b.Settled != nil {
		b.Settled()
	}
	if b.conn != nil && b.conn.Err() != nil { // since then, and the look to come was taken for this one
		b.Look()
	}
	return false, nil
}

// stepAfter has another Step wanted after some time.
func (b *Backend) stepAfter(d time.Duration) {
	if b.later == nil {
		b.later = time.AfterFunc(d, func() {
			b.wanted.Store(true)
			b.Wake()
		})
		return
	}
	b.later.Reset(d)
}

// Close lets go of the device as it is, with what is in the ring.
func (b *Backend) Close() {
	b.notice.Close()
	if b.later != nil {
		b.later.Stop()
	}
	if b.conn != nil {
		b.detach()
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
			b.stepAfter(retryAfter)
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
	return false, b.publish(ctx, view, step.Publish)
}

// guestsFault says that an attach has failed because of what the guest offered: it
// was not granted, not allocated for us, or is not a ring. Else the host lacks
// something, such as memory or a free descriptor.
func guestsFault(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ESRCH) || errors.Is(err, ring.ErrCorrupt)
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
	conn.whenFailed(b.Look)
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
	if b.Aside != nil {
		b.Aside(b.conn.Drain)
	} else {
		b.conn.Drain()
	}
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

// publish moves our state on, unless somebody else has changed it meanwhile or removed
// the directory, or the frontend is in another state: a guest that has begun anew would
// follow what was meant for its end. Then we look again.
func (b *Backend) publish(ctx context.Context, seen xenbus.BackendView, to xenbus.State) error {
	tries := 0
	err := b.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		r := xenstore.NewValues(ctx, tx)
		r.Prefetch(b.Path+"/instance", b.Path+"/state", b.Path+"/frontend", b.Frontend+"/state")
		instance, ours, theirs := r.Get(b.Path+"/instance"), r.Get(b.Path+"/state"), r.Get(b.Frontend+"/state")
		tries++
		switch {
		case r.Err() != nil:
			return r.Err()
		case r.Get(b.Path+"/frontend") != b.Frontend, instance != b.Instance, xenbus.ParseState(ours) != seen.State,
			xenbus.ParseState(theirs) != seen.Frontend.State, tries > maxConflicts:
			return errTorn
		}
		return tx.Write(ctx, b.Path+"/state", to.Decimal())
	})
	if errors.Is(err, errTorn) {
		b.Look()
		return nil
	}
	if err != nil {
		return fmt.Errorf("publish the state of %s: %w", b.Path, err)
	}
	return nil
}

package toolstack

import (
	"context"
	"fmt"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenbus"
	"github.com/xenchan/xenchan/xenstore"
)

const (
	// notice is how long a running guest has to look at a new device: it needs
	// milliseconds unless it is very busy.
	notice = time.Second
	// forget is how long a frontend stays away, for the guest to see that.
	forget = 500 * time.Millisecond
)

// Announce sees to it that a running guest looks at a channel that was attached
// a moment ago. Linux looks at a device when its directory appears, unless it
// still knows a device of that number: one from before a restore, or one that was
// detached a moment ago. Then it has to see the directory gone first
// (xenbus_probe.c, xenbus_dev_changed). So a frontend that the guest leaves alone
// is taken away and offered once more. It is no error when the guest does not
// look at that either, for it may be paused or not have booted yet.
func (t *Toolstack) Announce(ctx context.Context, c Channel) error {
	untouched := true
	err := t.wait(ctx, notice, func(v *xenstore.Values) bool {
		untouched = v.Get(c.Frontend+"/state") == xenbus.Initialising.Decimal()
		c.TTY = v.Get(c.Frontend + "/tty")
		return !untouched
	})
	if err != nil || !untouched {
		return err
	}
	if taken, err := t.takeAway(ctx, c.Frontend); err != nil || !taken {
		return err
	}
	select {
	case <-time.After(forget):
	case <-ctx.Done():
	}
	// Not to be given up on in the middle, or the channel would have no frontend.
	return t.offer(context.WithoutCancel(ctx), c)
}

// takeAway removes a frontend, unless its guest has looked at it after all: it would go
// on with a device that has no nodes.
func (t *Toolstack) takeAway(ctx context.Context, frontend string) (taken bool, err error) {
	err = t.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		v := xenstore.NewValues(ctx, tx)
		taken = v.Get(frontend+"/state") == xenbus.Initialising.Decimal()
		if v.Err() != nil || !taken {
			return v.Err()
		}
		return tx.Remove(ctx, frontend)
	})
	return taken, err
}

// offer writes the frontend of a channel anew.
func (t *Toolstack) offer(ctx context.Context, c Channel) error {
	dom, backend := xen.DomID(c.DomID), xen.DomID(c.BackendDomID)
	p := devicePaths(dom, backend, c.DevID)
	return t.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		v := xenstore.NewValues(ctx, tx)
		if v.Get(p.backend+"/online") != "1" || v.Err() != nil {
			return v.Err() // it was detached meanwhile
		}
		w := writer{tx.Pipeline(), c.Type}
		w.frontend(p, dom, backend, c.DevID, channel.Spec{Name: c.Name, Connection: c.Connection})
		w.set(p.frontend, nil, "tty", c.TTY)
		// The backend has seen its frontend go and says Closed, which a guest
		// would follow.
		w.set(p.backend, nil, "state", xenbus.Initialising.Decimal())
		return w.Wait(ctx)
	})
}

// WaitConnected waits until both halves of a channel are connected. It fails
// when the guest closes its half, when the channel goes, and with the context.
func (t *Toolstack) WaitConnected(ctx context.Context, c Channel) error {
	return t.Store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
		n := xenstore.NewValues(ctx, r)
		back := xenbus.ParseState(n.Get(c.Backend + "/state"))
		front := xenbus.ParseState(n.Get(c.Frontend + "/state"))
		switch {
		case n.Err() != nil:
			return false, n.Err()
		case n.Get(c.Backend+"/frontend") == "":
			return false, fmt.Errorf("%w: %s was detached", ErrNoChannel, c.Name)
		case front == xenbus.Closed && back != xenbus.Initialising && back != xenbus.InitWait:
			return false, fmt.Errorf("the guest has refused %s", c.Name)
		}
		return back == xenbus.Connected && front == xenbus.Connected, nil
	})
}

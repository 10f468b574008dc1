package toolstack

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/xenbus"
	"github.com/xenchan/xenchan/xenstore"
)

// How long Detach waits: for the guest, as long as libxl does for any device;
// then for a backend that may not be running.
const (
	guestGrace   = 10 * time.Second
	backendGrace = time.Second
)

// Detach takes a channel away from a running domain. The guest is asked to close
// first, so that a program in it sees a hang-up and not a dead terminal; a guest
// or a daemon that does not answer in time is not waited for any longer. When
// the context ends while waiting, the channel goes at once.
func (t *Toolstack) Detach(ctx context.Context, d Domain, name string) error {
	c, err := t.Find(ctx, d, name)
	if err != nil {
		return err
	}
	switch {
	case c.Type == Type, c.Type == "":
	case c.Type == StockType && (c.ServedBy == channel.ServerNone || c.ServedBy == channel.ServerStandIn):
		// By the daemon or a device model of ours, if by anybody.
	case c.ServedBy == channel.ServerQEMU:
		return fmt.Errorf("%s was made by xl and is served by QEMU (process %d), which has no hot-unplug", name, *c.QEMUPID)
	default:
		return fmt.Errorf("%s is of type %q in domain %d, of which nobody here knows who serves it", name, c.Type, c.BackendDomID)
	}
	if err := t.unplug(ctx, c); err != nil {
		return fmt.Errorf("detach %s from %v: %w", name, d, err)
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), guestGrace)
	defer cancel()
	if err := t.remove(clean, d, c); err != nil {
		return fmt.Errorf("detach %s from %v: %w", name, d, err)
	}
	return nil
}

// unplug asks both halves to close and waits for them, but not for ever.
func (t *Toolstack) unplug(ctx context.Context, c Channel) error {
	served := false
	err := t.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		n := xenstore.NewValues(ctx, tx)
		state := xenbus.ParseState(n.Get(c.Backend + "/state"))
		served = state > xenbus.Initialising
		if n.Err() != nil || n.Get(c.Backend+"/frontend") == "" {
			return n.Err()
		}
		w := writer{tx.Pipeline(), c.Type}
		w.set(c.Backend, nil, "online", "0", "state", xenbus.Closing.Decimal())
		return w.Wait(ctx)
	})
	if err != nil || !served {
		return err
	}
	err = t.wait(ctx, guestGrace, func(n *xenstore.Values) bool {
		front := xenbus.ParseState(n.Get(c.Frontend + "/state"))
		return closed(n, c) || front == xenbus.Closed || front == xenbus.Unknown
	})
	if err == nil {
		err = t.wait(ctx, backendGrace, func(n *xenstore.Values) bool { return closed(n, c) })
	}
	return err
}

func closed(n *xenstore.Values, c Channel) bool {
	back := xenbus.ParseState(n.Get(c.Backend + "/state"))
	return back == xenbus.Closed || back == xenbus.Unknown
}

// wait waits until f says so or the time is over, which is no error.
func (t *Toolstack) wait(ctx context.Context, d time.Duration, f func(*xenstore.Values) bool) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	err := t.Store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
		n := xenstore.NewValues(ctx, r)
		done := f(n)
		return done, n.Err()
	})
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// remove removes all nodes of a channel, and directories that this leaves empty.
// The frontend goes first and by itself: a guest that writes to it all the time
// could keep a transaction from ever ending. It cannot make it again.
func (t *Toolstack) remove(ctx context.Context, d Domain, c Channel) error {
	p := devicePaths(d.ID, backendOf(c.Backend), c.DevID)
	if err := t.Store.Remove(ctx, p.frontend); err != nil {
		return err
	}
	return t.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		for _, dirs := range [][]string{
			{p.frontend, parent(p.frontend)},
			{p.backend, parent(p.backend), parent(parent(p.backend))},
			{p.libxl, parent(p.libxl), parent(parent(p.libxl))},
		} {
			if err := prune(ctx, tx, dirs); err != nil {
				return err
			}
		}
		return nil
	})
}

// prune removes the first directory with all below it, and each further one for
// as long as they are empty.
func prune(ctx context.Context, tx *xenstore.Tx, dirs []string) error {
	for i, dir := range dirs {
		if i > 0 {
			v := xenstore.NewValues(ctx, tx)
			if left := v.List(dir); len(left) > 0 || v.Err() != nil {
				return v.Err()
			}
		}
		if err := tx.Remove(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// parent is the directory that path is in.
func parent(dir string) string { return path.Dir(dir) }

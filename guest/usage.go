package guest

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xenstore"
)

// settle is how long programs may open and close before somebody looks again:
// a look goes through all processes.
const settle = 20 * time.Millisecond

// usage knows which terminals programs have open, and tells the host. Nil does nothing.
type usage struct {
	h       *Holder
	inotify *sys.Inotify
	done    chan struct{}
	watched map[int]bool
	now     []used
	said    map[string]channel.GuestState // by node
	domid   string
}

// used is a terminal that may be in use.
type used struct {
	tty  int
	path string // the terminal's own
	node string // its frontend's directory
}

// newUsage wakes h when a terminal is opened or closed. close joins its goroutine.
func newUsage(h *Holder) (*usage, error) {
	in, err := sys.NewInotify()
	if err != nil {
		return nil, err
	}
	u := &usage{h: h, inotify: in, done: make(chan struct{}), watched: make(map[int]bool), said: make(map[string]channel.GuestState)}
	go func() {
		defer close(u.done)
		for {
			if err := in.Wait(); err != nil {
				return // closed
			}
			time.Sleep(settle)
			if _, err := in.Take(); err != nil {
				return
			}
			h.wakeUp()
		}
	}()
	return u, nil
}

func (u *usage) close() {
	_ = u.inotify.Close()
	<-u.done
}

// channels takes note of what there is.
func (u *usage) channels(now []console, of map[key]int, domid string) {
	if u == nil {
		return
	}
	if u.domid != domid {
		u.domid = domid
		clear(u.said) // the nodes are new
	}
	u.now = u.now[:0]
	said := make(map[string]channel.GuestState)
	for _, c := range now {
		n, ok := of[c.key()]
		if !ok || c.life != sure || CheckName(c.name) != nil {
			continue
		}
		path, err := filepath.EvalSymlinks(u.h.ttyPath(n))
		if err == nil && !u.watched[n] {
			_, err = u.inotify.AddUse(path)
			u.watched[n] = err == nil
		}
		if err != nil {
			u.h.Log.Warn("the host will not know whether a channel is open", "name", c.name, "error", err)
			continue
		}
		node := nodeOf(c.id)
		said[node] = u.said[node]
		u.now = append(u.now, used{n, path, node})
	}
	u.said = said // a console that comes again has new nodes
}

// publish tells the host what has changed.
func (u *usage) publish(ctx context.Context) error {
	paths := make(map[string]bool)
	for _, t := range u.now {
		paths[t.path] = true
	}
	open := openers(paths)
	for _, t := range u.now {
		state := channel.GuestClosed
		if open[t.path] {
			state = channel.GuestOpen
		}
		if u.said[t.node] == state {
			// A host that offers a device once more makes its nodes anew.
			now, err := u.h.Store.Read(ctx, t.node+"/"+channel.GuestNode)
			if now == string(state) && err == nil {
				continue
			}
		}
		if state == channel.GuestClosed && u.h.held[t.tty] != nil {
			// Whatever the last one did to the line.
			_ = makeRaw(u.h.held[t.tty].file)
		}
		if err := Publish(ctx, u.h.Store, t.node, state); err != nil {
			return err
		}
		u.said[t.node] = state
	}
	return nil
}

// Publish tells the host whether a program has a channel open, in the frontend's
// directory. It does nothing where there is none: it must not make the directory of a
// console that was just removed.
func Publish(ctx context.Context, store *xenstore.Store, frontend string, state channel.GuestState) error {
	err := store.Tx(ctx, func(tx *xenstore.Tx) error {
		if _, err := tx.Read(ctx, frontend+"/state"); err != nil {
			return err
		}
		return tx.Write(ctx, frontend+"/"+channel.GuestNode, string(state))
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

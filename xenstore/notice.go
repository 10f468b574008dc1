package xenstore

import (
	"context"
	"sync/atomic"
	"syscall"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// Notice is a watch that keeps nothing and needs no goroutine: it calls a function.
// Thousands of them take little.
type Notice struct {
	c      *conn
	path   string
	token  string
	call   func()
	closed atomic.Bool
}

// Notify calls f whenever something at or below a path has changed, as in [Store.Watch],
// once at the start, and a last time when the connection is lost, which requests say
// then. f is called by the one goroutine that reads from the daemon: it must neither
// block nor wait for an answer of this Store. Close the notice when it is no longer
// needed; f may be called once more while that returns.
func (s *Store) Notify(ctx context.Context, path string, f func()) (*Notice, error) {
	if err := checkPath(path, true); err != nil {
		return nil, &Error{Op: wire.Watch, Path: path, Errno: syscall.EINVAL, Detail: err.Error()}
	}
	n, err := addWatch(s.c, func(token string) *Notice {
		return &Notice{c: s.c, path: path, token: token, call: f}
	})
	if err != nil {
		return nil, opError(wire.Watch, path, err)
	}
	if _, err := s.call(ctx, wire.Watch, path, wire.JoinNUL(path, n.token)); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Close ends the notice. It does not wait for the daemon. Further calls do nothing.
func (n *Notice) Close() {
	if n.closed.Swap(true) {
		return
	}
	n.c.removeWatch(n.token)
	n.c.post(wire.Unwatch, 0, wire.JoinNUL(n.path, n.token))
}

func (n *Notice) changed(string) {
	if !n.closed.Load() {
		n.call()
	}
}

// end is a change too: who looks finds out.
func (n *Notice) end(error) bool {
	n.changed("")
	return true
}

package xenstore

import (
	"context"
	"sync"
	"syscall"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// maxChanged is how many different paths a Watch remembers.
const maxChanged = 256

// Watch says that something at or below a path has changed: a node was written,
// created or removed, or its permissions were set. It gathers the changed paths
// until somebody takes them, each once. Past 256 of them it keeps only the
// watched path itself, which means that anything below may have changed. So a
// slow reader may lose detail, but never the fact of a change, and delays nobody.
//
// The watched path itself is reported once at the start, whether or not there is
// such a node. Paths under a relative path are relative too.
//
// Use either Next, or C and Take.
type Watch struct {
	c      *conn
	path   string
	token  string
	signal chan struct{} // capacity 1; closed when the watch ends

	mu      sync.Mutex
	changes []string // in the order of their first event
	seen    map[string]struct{}
	all     bool // more than maxChanged: changes is the watched path alone
	err     error
	nodes   map[string]struct{} // what the daemon watches for us with this token
}

// Watch begins to watch a path, or the special names @introduceDomain and
// @releaseDomain. Close the watch when it is no longer needed.
func (s *Store) Watch(ctx context.Context, path string) (*Watch, error) {
	w, err := s.newWatch(path)
	if err != nil {
		return nil, opError(wire.Watch, path, err)
	}
	subscribed, err := w.subscribe(path)
	if err == nil {
		err = subscribed(ctx)
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// newWatch is a watch with a token of its own and no nodes yet.
func (s *Store) newWatch(path string) (*Watch, error) {
	return addWatch(s.c, func(token string) *Watch {
		return &Watch{
			c: s.c, path: path, token: token, signal: make(chan struct{}, 1),
			seen: make(map[string]struct{}), nodes: make(map[string]struct{}),
		}
	})
}

// subscribe adds a node to the watch. It is there for all that is read in a request
// that is sent afterwards, unless the daemon's answer, which subscribed waits for,
// says no. After an error the node still counts as watched, as the request may take
// effect all the same.
func (w *Watch) subscribe(path string) (subscribed func(context.Context) error, err error) {
	if err := checkPath(path, true); err != nil {
		return nil, &Error{Op: wire.Watch, Path: path, Errno: syscall.EINVAL, Detail: err.Error()}
	}
	w.mu.Lock()
	err = w.err
	if err == nil {
		w.nodes[path] = struct{}{}
	}
	w.mu.Unlock()
	if err != nil {
		return nil, opError(wire.Watch, path, err)
	}
	r, err := nodes{c: w.c}.submit(wire.Watch, path, wire.JoinNUL(path, w.token))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		_, err := w.c.await(ctx, r, path)
		return err
	}, nil
}

// unsubscribe takes a node out of the watch. Events on their way still arrive.
func (w *Watch) unsubscribe(path string) {
	w.mu.Lock()
	delete(w.nodes, path)
	w.mu.Unlock()
	w.c.post(wire.Unwatch, 0, wire.JoinNUL(path, w.token))
}

// Next waits for a change and returns the paths that have changed since the last
// call. It fails when ctx ends, when the watch is closed ([ErrClosed]) and when
// the connection is lost.
func (w *Watch) Next(ctx context.Context) ([]string, error) {
	for {
		if paths := w.Take(); len(paths) > 0 {
			return paths, nil
		}
		if err := w.Err(); err != nil {
			return nil, err
		}
		select {
		case <-w.signal:
		case <-ctx.Done():
			return nil, opError(wire.Watch, w.path, ctx.Err())
		}
	}
}

// C receives a value when there is something to Take. It is closed when the
// watch has ended; then Err says why.
func (w *Watch) C() <-chan struct{} { return w.signal }

// Take returns the paths that have changed since the last call, without waiting.
func (w *Watch) Take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.signal:
	default:
	}
	paths := w.changes
	w.changes, w.all = nil, false
	clear(w.seen)
	return paths
}

// Err is why the watch has ended, or nil while it has not.
func (w *Watch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		return nil
	}
	return opError(wire.Watch, w.path, w.err)
}

// Close ends the watch and wakes Next. It does not wait for the daemon. Further
// calls do nothing.
func (w *Watch) Close() {
	if !w.end(ErrClosed) {
		return
	}
	w.c.removeWatch(w.token)
	w.mu.Lock()
	nodes := w.nodes
	w.nodes = nil
	w.changes = nil
	w.mu.Unlock()
	for path := range nodes {
		w.c.post(wire.Unwatch, 0, wire.JoinNUL(path, w.token))
	}
}

// end lets the watch fail with err. It reports false if it has ended before.
// Changes that nobody has taken yet stay.
func (w *Watch) end(err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return false
	}
	w.err = err
	close(w.signal)
	return true
}

// changed takes note of an event.
func (w *Watch) changed(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return
	}
	_, old := w.seen[path]
	switch {
	case old || w.all:
	case len(w.changes) == maxChanged:
		w.changes, w.all = []string{w.path}, true
	default:
		w.seen[path] = struct{}{}
		w.changes = append(w.changes, path)
	}
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

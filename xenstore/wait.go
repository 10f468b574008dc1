package xenstore

import (
	"context"
	"errors"
	"fmt"
)

// WaitUntil runs f until it reports done or fails, and returns its error. It
// watches exactly the nodes that the latest run has read through r, and waits
// before each further run until one of them may have changed. A change is never
// missed, but one run may see some nodes before and others after it, and f may
// run more often than there are changes. r is for use within the call and by one
// goroutine at a time; what f learns from elsewhere does not wake it.
func (s *Store) WaitUntil(ctx context.Context, f func(r Reader) (done bool, err error)) error {
	w, err := s.newWatch("")
	if err != nil {
		return fmt.Errorf("xenstore: wait: %w", err)
	}
	defer w.Close()
	t := &tracker{w: w, watched: make(map[string]bool)}
	r := nodes{c: s.c, before: t.watch}
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("xenstore: wait: %w", err)
		}
		t.begin()
		if done, err := f(r); done || err != nil {
			return err
		}
		if err := t.end(); err != nil {
			return err
		}
		select {
		case _, open := <-w.C():
			if !open {
				return w.Err()
			}
			w.Take()
		case <-ctx.Done():
		}
	}
}

// tracker watches each node before it is first read.
type tracker struct {
	w       *Watch
	watched map[string]bool // true for those that this run has read
	failed  error           // a node could not be watched
}

// begin begins a run.
func (t *tracker) begin() {
	for path := range t.watched {
		t.watched[path] = false
	}
}

// watch is called before each read.
func (t *tracker) watch(path string) (after func(context.Context) error, err error) {
	_, ok := t.watched[path]
	if ok {
		t.watched[path] = true
		return func(context.Context) error { return nil }, nil
	}
	subscribed, err := t.w.subscribe(path)
	if err != nil {
		t.failed = err
		return nil, err
	}
	t.watched[path] = true
	return func(ctx context.Context) error {
		err := subscribed(ctx)
		if err != nil {
			t.failed = err
		}
		return err
	}, nil
}

// end ends a run: what it has not read is no longer watched. It fails if nothing
// would ever start another run.
func (t *tracker) end() error {
	if t.failed != nil {
		return t.failed // the condition took it for an answer
	}
	for path, used := range t.watched {
		if !used {
			delete(t.watched, path)
			t.w.unsubscribe(path)
		}
	}
	if len(t.watched) == 0 {
		return errors.New("xenstore: wait: the condition reads nothing, so it would wait for ever")
	}
	return nil
}

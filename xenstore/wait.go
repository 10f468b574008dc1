package xenstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/xenchan/xenchan/xenstore/wire"
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
	t := &tracker{s: s, w: w, watched: make(map[string]bool)}
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("xenstore: wait: %w", err)
		}
		done, err := t.run(f)
		if done || err != nil {
			return err
		}
		select {
		case <-w.C():
			w.Take()
		case <-ctx.Done():
		}
		if err := w.Err(); err != nil {
			return fmt.Errorf("xenstore: wait: %w", err)
		}
	}
}

// tracker is a Reader that watches each node before it reads it.
type tracker struct {
	s       *Store
	w       *Watch
	watched map[string]bool // true for those that this run has read
	failed  error           // a node that could not be watched
}

// run runs f once and then watches only what it has read.
func (t *tracker) run(f func(Reader) (bool, error)) (done bool, err error) {
	for path := range t.watched {
		t.watched[path] = false
	}
	if done, err = f(t); done || err != nil {
		return done, err
	}
	if t.failed != nil {
		return false, t.failed // f took it for an answer, but nothing would wake it
	}
	for path, used := range t.watched {
		if !used {
			delete(t.watched, path)
			t.w.unsubscribe(path)
		}
	}
	if len(t.watched) == 0 {
		return false, errors.New("xenstore: wait: the condition reads nothing, so it would wait for ever")
	}
	return false, nil
}

func (t *tracker) watch(ctx context.Context, path string) error {
	if _, ok := t.watched[path]; !ok {
		if err := t.w.subscribe(ctx, path); err != nil {
			t.failed = err
			return err
		}
	}
	t.watched[path] = true
	return nil
}

func (t *tracker) Read(ctx context.Context, path string) (string, error) {
	if err := t.watch(ctx, path); err != nil {
		return "", err
	}
	return t.s.Read(ctx, path)
}

func (t *tracker) List(ctx context.Context, path string) ([]string, error) {
	if err := t.watch(ctx, path); err != nil {
		return nil, err
	}
	return t.s.List(ctx, path)
}

func (t *tracker) Exists(ctx context.Context, path string) (bool, error) {
	if err := t.watch(ctx, path); err != nil {
		return false, err
	}
	return t.s.Exists(ctx, path)
}

func (t *tracker) Perms(ctx context.Context, path string) (wire.Perms, error) {
	if err := t.watch(ctx, path); err != nil {
		return nil, err
	}
	return t.s.Perms(ctx, path)
}

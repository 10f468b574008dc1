package xenstore

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
)

// A notice tells of the start, of each change and of the end of the connection; closed,
// it is silent and gone from the daemon too.
func TestNotice(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	var calls, others atomic.Int32
	n := must(s.Notify(ctx, "/a", func() { calls.Add(1) }))(t)
	must(s.Notify(ctx, "/b", func() { others.Add(1) }))(t)
	told := func(want int32) {
		t.Helper()
		must(s.Exists(ctx, "/"))(t) // all events before it are here
		equal(t, calls.Load(), want)
	}
	told(1)
	f.set("/a/x", "1")
	told(2)
	f.set("/elsewhere", "1")
	told(2)
	equal(t, others.Load(), int32(1))
	n.Close()
	n.Close()
	f.set("/a/x", "2")
	told(2)
	n.changed("/a/x") // its event was on its way
	equal(t, calls.Load(), int32(2))
	equal(t, len(s.c.watches), 1)
	f.mu.Lock()
	equal(t, len(f.watches), 1)
	f.mu.Unlock()
	ok(t, s.Close())
	equal(t, calls.Load(), int32(2))
	equal(t, others.Load(), int32(2))
	if _, err := s.Notify(ctx, "/a", func() {}); !errors.Is(err, ErrClosed) {
		t.Errorf("a notice of a closed store: %v", err)
	}
}

func TestNotice_refused(t *testing.T) {
	s, _ := newFake(t, nil)
	if _, err := s.Notify(t.Context(), "no//path", func() {}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a path that is none: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Notify(ctx, "/a", func() {}); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	equal(t, len(s.c.watches), 0)
}

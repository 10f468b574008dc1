package xenstore

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/xenstore/wire"
)

func TestWatch_reportsChanges(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	w := must(s.Watch(ctx, "/a"))(t)
	equal(t, must(w.Next(ctx))(t), []string{"/a"})
	f.set("/a/b", "1")
	equal(t, must(w.Next(ctx))(t), []string{"/a/b"})
	f.set("/elsewhere", "1")
	ok(t, s.Write(ctx, "/a", "2"))
	equal(t, must(w.Next(ctx))(t), []string{"/a"})
	ok(t, s.Remove(ctx, "/a/b"))
	equal(t, must(w.Next(ctx))(t), []string{"/a/b"})
}

func TestWatch_signal(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	w := must(s.Watch(ctx, "@releaseDomain"))(t)
	if _, open := <-w.C(); !open {
		t.Fatal(w.Err())
	}
	equal(t, w.Take(), []string{"@releaseDomain"})
	equal(t, len(w.Take()), 0)
	f.mu.Lock()
	f.fire("@releaseDomain")
	f.fire("@releaseDomain")
	f.mu.Unlock()
	must(s.Exists(ctx, "/"))(t) // both events are here
	equal(t, w.Take(), []string{"@releaseDomain"})
	select {
	case <-w.C():
		t.Error("a signal without a change")
	default:
	}
	w.Close()
	if _, open := <-w.C(); open {
		t.Error("a signal after Close")
	}
	if !errors.Is(w.Err(), ErrClosed) {
		t.Errorf("Err is %v", w.Err())
	}
}

// A reader that never reads costs neither memory nor anybody's time, and learns
// in the end that everything may have changed.
func TestWatch_flood(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	w := must(s.Watch(ctx, "/a"))(t)
	same := must(s.Watch(ctx, "/a"))(t)
	for i := range 3 * maxChanged {
		f.set(fmt.Sprintf("/a/%d", i), "")
		if i == maxChanged-2 {
			must(s.Read(ctx, "/a/0"))(t)
			equal(t, len(same.Take()), maxChanged) // with the first event
		}
	}
	must(s.Read(ctx, "/a/0"))(t) // replies pass
	w.mu.Lock()
	kept := len(w.changes) + len(w.seen)
	w.mu.Unlock()
	if kept > 2*maxChanged {
		t.Errorf("%d changes kept", kept)
	}
	equal(t, must(w.Next(ctx))(t), []string{"/a"})
	equal(t, same.Take(), []string{"/a"})
	f.set("/a/x", "")
	equal(t, must(w.Next(ctx))(t), []string{"/a/x"})
}

func TestWatch_ofTheSamePath(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	one, two := must(s.Watch(ctx, "/a"))(t), must(s.Watch(ctx, "/a"))(t)
	equal(t, one.token == two.token, false)
	must(one.Next(ctx))(t)
	must(two.Next(ctx))(t)
	one.Close()
	f.waitFor("UNWATCH /a " + one.token)
	f.set("/a", "")
	equal(t, must(two.Next(ctx))(t), []string{"/a"})
	if _, err := one.Next(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	one.Close()
}

func TestWatch_unknownTokens(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	f.event("/a", "nobody")
	f.event("/a", "")
	ok(t, s.Write(ctx, "/a", ""))
}

// Events may have any ids, and more parts than we know.
func TestWatch_idsOfEventsMeanNothing(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	w := must(s.Watch(ctx, "/a"))(t)
	must(w.Next(ctx))(t)
	f.send(wire.Message{Type: wire.WatchEvent, ReqID: 1, TxID: 77, Payload: wire.JoinNUL("/a/b", w.token, "new")})
	equal(t, must(w.Next(ctx))(t), []string{"/a/b"})
}

func TestWatch_nextHonoursContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newFake(t, nil)
		w := must(s.Watch(t.Context(), "/a"))(t)
		must(w.Next(t.Context()))(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if _, err := w.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		equal(t, time.Since(start), time.Minute)
	})
}

func TestWatch_refused(t *testing.T) {
	s, f := newFake(t, nil)
	f.hook = func(m wire.Message) bool { f.refuse(m, "EACCES"); return true }
	if _, err := s.Watch(t.Context(), "@releaseDomain"); !errors.Is(err, syscall.EACCES) {
		t.Errorf("got %v", err)
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	equal(t, len(s.c.watches), 0)
}

// A watch that comes to be after its owner has gone must not stay.
func TestWatch_cancelledIsUnwatched(t *testing.T) {
	s, p := newPeer(t, false)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() { _, err := s.Watch(ctx, "/a"); errs <- err }()
	watch := p.want(wire.Watch)
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	p.reply(watch, "OK\x00")
	p.event("/a", "w1")
	unwatch := p.want(wire.Unwatch)
	equal(t, unwatch.Payload, watch.Payload)
}

func TestStore_resetWatches(t *testing.T) {
	ctx := t.Context()
	s, _ := newFake(t, nil)
	w := must(s.Watch(ctx, "/a"))(t)
	must(w.Next(ctx))(t)
	ok(t, s.ResetWatches(ctx))
	if _, err := w.Next(ctx); !errors.Is(err, errReset) {
		t.Errorf("got %v", err)
	}
	must(s.Watch(ctx, "/a"))(t)
}

func TestWatch_changesOutliveTheConnection(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	w := must(s.Watch(ctx, "/a"))(t)
	must(s.Exists(ctx, "/a"))(t)
	_ = f.conn.Close()
	for range w.C() {
	}
	if d := cmp.Diff([]string{"/a"}, must(w.Next(ctx))(t)); d != "" {
		t.Error(d)
	}
	if _, err := w.Next(ctx); err == nil || errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

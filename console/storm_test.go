package console_test

import (
	"io"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// Events after which nothing has moved are let in at our pace, not the guest's; one
// that comes with a byte is served all the same.
func TestConn_emptyEventsAreBounded(t *testing.T) {
	f := newFakes()
	sink := newMemory(-1)
	f.attachBack(t, sink)
	eventually(t, "it waits", func() bool { return f.back.waited.Load() > 0 })
	var sent int64
	before := f.back.waited.Load()
	begin := time.Now()
	for time.Since(begin) < 100*time.Millisecond {
		if f.front.Notify() != nil {
			t.Fatal("the event channel is closed")
		}
		sent++
	}
	handled := f.back.waited.Load() - before
	if most := 8 + time.Since(begin).Milliseconds() + 1; handled > most {
		t.Errorf("of %d events without content %d were handled in %v, more than %d", sent, handled, time.Since(begin), most)
	}
	if sent < 1000 {
		t.Errorf("that was no storm: %d events", sent)
	}
	front := f.attachFront(t)
	write(t, front, []byte("x"))
	eventually(t, "the byte is taken", func() bool { return string(sink.bytes()) == "x" })
}

// What fails for want of memory or descriptors is tried again, and the guest notices
// nothing but the time that it takes.
func TestBackend_triesAgain(t *testing.T) {
	r := newRig(t)
	for op, errno := range map[xensim.Op]syscall.Errno{xensim.OpMap: syscall.ENOMEM, xensim.OpBindInterdomain: syscall.ENOSPC} {
		c := r.attach("a")
		seen := r.history(c.Backend + "/state")
		var failures atomic.Int64
		fault := func(now xensim.Op, dom xen.DomID) error {
			if now == op && dom == 0 && failures.Add(1) == 1 {
				return errno
			}
			return nil
		}
		r.fault.Store(&fault)
		back, front := r.backend(c, nil), r.frontend(c)
		r.connected(c)
		write(t, back.conn(t), []byte("hello"))
		expect(t, front.conn(t), []byte("hello"))
		if failures.Load() < 2 {
			t.Errorf("%v was asked for %d times", op, failures.Load())
		}
		for _, s := range seen() {
			if s == "5" || s == "6" {
				t.Errorf("the guest was told to close: %q", seen())
			}
		}
		r.remove(c)
		r.check(back.wait(t))
	}
}

// A guest that writes before each of our commits cannot keep us from looking.
func TestBackend_looksAtAGuestThatWritesWithoutEnd(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	stream, err := r.dom0.OpenStore(t.Context())
	r.check(err)
	spoilt := &spoiler{ReadWriteCloser: stream, spoil: func() { r.set(r.guest, c.Frontend+"/port", "1") }}
	r.store = xenstore.New(spoilt)
	defer r.store.Close()
	x := r.backend(c, nil)
	r.await(c.Backend+"/state", "2")
	if spoilt.commits.Load() == 0 {
		t.Error("nothing was spoilt")
	}
	x.kill(t)
}

// spoiler does something before each commit of a transaction.
type spoiler struct {
	io.ReadWriteCloser
	d       wire.Decoder
	spoil   func()
	commits atomic.Int64
}

func (s *spoiler) Write(p []byte) (int, error) {
	s.d.Feed(p)
	for {
		m, ok, err := s.d.Next()
		if err != nil || !ok {
			break
		}
		if m.Type == wire.TransactionEnd && string(m.Payload) == "T\x00" {
			s.commits.Add(1)
			s.spoil()
		}
	}
	return s.ReadWriteCloser.Write(p)
}

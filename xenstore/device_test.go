package xenstore

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/xenchan/xenchan/xenstore/wire"
)

func TestDevice_oneRequestAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := newPeer(t, true)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := s.Read(t.Context(), "/a"); err != nil {
					t.Error(err)
				}
			})
		}
		for range 20 {
			m := p.want(wire.Read)
			synctest.Wait()
			s.c.mu.Lock()
			if len(s.c.queue)+1 != len(s.c.pending) {
				t.Errorf("%d queued, %d pending", len(s.c.queue), len(s.c.pending))
			}
			s.c.mu.Unlock()
			equal(t, p.d.Buffered(), 0)
			p.reply(m, "")
		}
		wg.Wait()
	})
}

// The reply to a request that was given up still has to come before the next.
func TestDevice_cancelledRequestKeepsItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := newPeer(t, true)
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 1)
		go func() { _, err := s.Read(ctx, "/slow"); errs <- err }()
		slow := p.want(wire.Read)
		cancel()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		go func() { errs <- s.Write(t.Context(), "/a", "") }()
		synctest.Wait()
		select {
		case err := <-errs:
			t.Errorf("write came back with %v", err)
		default:
		}
		p.reply(slow, "late")
		p.reply(p.want(wire.Write), "OK\x00")
		ok(t, <-errs)
	})
}

// Kernels before 4.11 make up replies to WATCH and UNWATCH with number 0.
func TestDevice_repliesWithoutNumber(t *testing.T) {
	ctx := t.Context()
	s, p := newPeer(t, true)
	go func() {
		p.want(wire.Watch)
		p.send(wire.Message{Type: wire.Watch, Payload: []byte("OK\x00")})
		p.event("/a", "w1")
		p.want(wire.Unwatch)
		p.send(wire.Message{Type: wire.Unwatch, Payload: []byte("OK\x00")})
		p.want(wire.Read)
		p.send(wire.Message{Type: wire.Read, Payload: []byte("whose?")})
	}()
	w := must(s.Watch(ctx, "/a"))(t)
	equal(t, must(w.Next(ctx))(t), []string{"/a"})
	w.Close()
	if _, err := s.Read(ctx, "/a"); err == nil || !strings.Contains(err.Error(), "never made") {
		t.Errorf("got %v", err)
	}
}

// A reply before its request cannot be one.
func TestDevice_replyTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := newPeer(t, true)
		errs := make(chan error, 2)
		for range 2 {
			go func() { errs <- s.Mkdir(t.Context(), "/a") }()
		}
		m := p.want(wire.Mkdir)
		synctest.Wait()
		m.ReqID++
		p.reply(m, "OK\x00")
		for range 2 {
			if err := <-errs; err == nil || !strings.Contains(err.Error(), "never made") {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestDevice_limits(t *testing.T) {
	ctx := t.Context()
	s, p := newPeer(t, true)
	go func() { p.reply(p.want(wire.Write), "OK\x00") }()
	if err := s.Write(ctx, "/a", strings.Repeat("v", 4080-2)); !errors.Is(err, syscall.E2BIG) {
		t.Errorf("got %v", err)
	}
	ok(t, s.Write(ctx, "/a", strings.Repeat("v", 4080-3)))
	if err := s.ResetWatches(ctx); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("got %v", err)
	}
}

// failingWriter refuses writes while err is set.
type failingWriter struct {
	net.Conn
	mu  sync.Mutex
	err error
}

func (f *failingWriter) Write(b []byte) (int, error) {
	f.mu.Lock()
	err := f.err
	f.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return f.Conn.Write(b)
}

func (f *failingWriter) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func TestDevice_writeErrors(t *testing.T) {
	ctx := t.Context()
	client, server := net.Pipe()
	stream := &failingWriter{Conn: client}
	s := NewDevice(stream)
	startFake(&peer{t: t, conn: server}, nil)
	defer s.Close()

	stream.fail(&fs.PathError{Op: "write", Path: "/dev/xen/xenbus", Err: syscall.ENOENT})
	_, err := s.Read(ctx, "/a")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	equal(t, err.Error(), "xenstore: read /a: no such file or directory")
	equal(t, must(s.Exists(ctx, "/a"))(t), false)
	stream.fail(nil)
	ok(t, s.Write(ctx, "/a", "1")) // still usable
	equal(t, must(s.Read(ctx, "/a"))(t), "1")

	stream.fail(os.ErrClosed)
	if _, err := s.Read(ctx, "/a"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
	stream.fail(nil)
	if _, err := s.Read(ctx, "/a"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after the end: got %v", err)
	}
}

// On a socket the same is the end.
func TestStore_writeErrors(t *testing.T) {
	client, server := net.Pipe()
	defer server.Close()
	stream := &failingWriter{Conn: client, err: syscall.EPIPE}
	s := New(stream)
	defer s.Close()
	for range 2 {
		_, err := s.Read(t.Context(), "/a")
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("got %v", err)
		}
		if _, refused := errors.AsType[*Error](err); refused {
			t.Errorf("%v looks like an answer", err)
		}
	}
}

// New knows the device by its file mode.
func TestNew_recognizesDevice(t *testing.T) {
	for path, want := range map[string]bool{"/dev/ptmx": true, "/dev/null": true} {
		stream, device, err := OpenStream(t.Context(), path)
		ok(t, err)
		equal(t, device, want)
		s := New(stream)
		equal(t, s.c.device, want)
		ok(t, s.Close())
	}
	r, w, err := os.Pipe()
	ok(t, err)
	defer w.Close()
	s := New(struct {
		io.Reader
		io.Writer
		io.Closer
	}{r, w, r})
	equal(t, s.c.device, false)
	ok(t, s.Close())
}

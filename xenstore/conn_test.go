package xenstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// Replies may come in any order; each must reach its own request.
func TestStore_repliesInAnyOrder(t *testing.T) {
	s, p := newPeer(t, false)
	const n = 200
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			path := fmt.Sprintf("/%d", i)
			got, err := s.Read(t.Context(), path)
			if err != nil || got != path {
				t.Errorf("read %s gave %q, %v", path, got, err)
			}
		})
	}
	// All requests are here before the first reply, so they are pipelined.
	requests := make([]wire.Message, n)
	ids := map[uint32]bool{0: true}
	for i := range requests {
		requests[i] = p.want(wire.Read)
		if ids[requests[i].ReqID] {
			t.Errorf("request id %d is zero or in use", requests[i].ReqID)
		}
		ids[requests[i].ReqID] = true
	}
	for _, i := range rand.Perm(n) {
		p.reply(requests[i], strings.TrimSuffix(string(requests[i].Payload), "\x00"))
	}
	wg.Wait()
}

func TestStore_requestIDsSkipZeroAndThoseInUse(t *testing.T) {
	s, p := newPeer(t, false)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = s.Read(t.Context(), "/a") })
	first := p.want(wire.Read)
	s.c.mu.Lock()
	s.c.lastID = ^uint32(0)
	s.c.mu.Unlock()
	wg.Go(func() { _, _ = s.Read(t.Context(), "/b") })
	second := p.want(wire.Read)
	equal(t, []uint32{first.ReqID, second.ReqID}, []uint32{1, 2})
	p.reply(second, "")
	p.reply(first, "")
	wg.Wait()
}

func TestStore_lateReply(t *testing.T) {
	s, p := newPeer(t, false)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() { _, err := s.Read(ctx, "/slow"); failed <- err }()
	late := p.want(wire.Read)
	cancel()
	err := <-failed
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	equal(t, err.Error(), "xenstore: read /slow: context canceled")
	p.reply(late, "late")
	go func() { p.reply(p.want(wire.Read), "next") }()
	equal(t, must(s.Read(t.Context(), "/next"))(t), "next")
}

// Also when the daemon does not even read.
func TestStore_cancelWhileDaemonStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := newPeer(t, false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		var wg sync.WaitGroup
		for _, path := range []string{"/a", "/b", "/c"} {
			wg.Go(func() {
				if _, err := s.Read(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		equal(t, time.Since(start), time.Second)
		// What was not sent when it was given up is never sent.
		go func() {
			for m, ok := p.next(); ok; m, ok = p.next() {
				p.reply(m, string(m.Payload))
			}
		}()
		equal(t, must(s.Read(t.Context(), "/d"))(t), "/d\x00")
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		equal(t, len(s.c.pending), 0)
		equal(t, len(s.c.queue), 0)
	})
}

// header is a message header with any length field.
func header(typ wire.Type, id, length uint32) []byte {
	b := wire.Append(nil, wire.Message{Type: typ, ReqID: id})
	binary.NativeEndian.PutUint32(b[12:], length)
	return b
}

func TestStore_brokenConnection(t *testing.T) {
	is := func(target error) func(error) bool {
		return func(err error) bool { return errors.Is(err, target) }
	}
	text := func(want string) func(error) bool {
		return func(err error) bool { return strings.Contains(err.Error(), want) }
	}
	tooBig := func(err error) bool { _, ok := errors.AsType[*wire.SizeError](err); return ok }
	event := wire.Append(nil, wire.Message{Type: wire.WatchEvent, Payload: []byte("/a\x00token")})
	for name, c := range map[string]struct {
		send []byte
		is   func(error) bool
	}{
		"EOF":               {nil, is(io.EOF)},
		"EOF in a header":   {header(wire.Read, 1, 4)[:7], is(io.ErrUnexpectedEOF)},
		"EOF in a message":  {append(header(wire.Read, 1, 400), "abc"...), is(io.ErrUnexpectedEOF)},
		"oversized":         {header(wire.Read, 1, maxReply+1), tooBig},
		"huge":              {header(wire.Read, 1, ^uint32(0)), tooBig},
		"oversized event":   {append(header(wire.WatchEvent, 0, 5000), make([]byte, 5000)...), tooBig},
		"unknown request":   {header(wire.Read, 77, 0), text("never made")},
		"request zero":      {header(wire.Watch, 0, 0), text("never made")},
		"another type":      {header(wire.Write, 1, 0), text("WRITE reply to a READ request")},
		"malformed event":   {event, text("malformed watch event")},
		"event of one part": {append(header(wire.WatchEvent, 0, 3), "/a\x00"...), text("malformed watch event")},
		"garbage":           {[]byte(strings.Repeat("garbage ", 4)), tooBig},
	} {
		t.Run(name, func(t *testing.T) { testBroken(t, c.send, c.is) })
	}
}

// testBroken has a read, a watch and a WaitUntil under way when the daemon sends
// bytes and leaves; all must fail for the right reason, and so all that follows.
func testBroken(t *testing.T, send []byte, is func(error) bool) {
	s, p := newPeer(t, false)
	ctx := t.Context()
	errs := make(chan error, 4)
	go func() { _, err := s.Read(ctx, "/a"); errs <- err }()
	p.want(wire.Read) // request 1
	go func() { p.reply(p.want(wire.Watch), "OK\x00") }()
	w, err := s.Watch(ctx, "/a")
	ok(t, err)
	go func() { _, err := w.Next(ctx); errs <- err }()
	go func() {
		errs <- s.WaitUntil(ctx, func(r Reader) (bool, error) {
			_, err := r.Exists(ctx, "/b")
			return false, err
		})
	}()
	p.reply(p.want(wire.Watch), "OK\x00")
	p.reply(p.want(wire.Read), "")
	p.raw(send)
	_ = p.conn.Close()
	check := func(what string, err error) {
		t.Helper()
		if err == nil || !is(err) || errors.Is(err, ErrClosed) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	for range 3 {
		check("waiter", <-errs)
	}
	_, open := <-w.C()
	equal(t, open, false)
	check("Watch.Err", w.Err())
	check("Write", s.Write(ctx, "/a", ""))
	_, err = s.Watch(ctx, "/a")
	check("Watch", err)
	check("Tx", s.Tx(ctx, func(*Tx) error { return nil }))
	check("WaitUntil", s.WaitUntil(ctx, func(Reader) (bool, error) { return false, nil }))
	w.Close()
}

func TestStore_close(t *testing.T) {
	s, p := newPeer(t, false)
	ctx := t.Context()
	go func() { p.reply(p.want(wire.Watch), "OK\x00") }()
	w, err := s.Watch(ctx, "/a")
	ok(t, err)
	errs := make(chan error, 2)
	go func() { _, err := s.Read(ctx, "/a"); errs <- err }()
	go func() { _, err := w.Next(ctx); errs <- err }()
	p.want(wire.Read)
	ok(t, s.Close())
	for range 2 {
		if err := <-errs; !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := s.Read(ctx, "/a"); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	} else {
		equal(t, err.Error(), "xenstore: read /a: closed")
	}
	ok(t, s.Close())
}

// Close also ends a Store whose daemon neither reads nor writes.
func TestStore_closeWhileDaemonStands(t *testing.T) {
	client, server := net.Pipe()
	defer server.Close()
	s := New(client)
	errs := make(chan error)
	go func() { errs <- s.Write(t.Context(), "/a", "") }()
	buf := make([]byte, 1)
	_, err := server.Read(buf) // the writer is in the middle of its write
	ok(t, err)
	ok(t, s.Close())
	if err := <-errs; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// oxenstored sends directories larger than the protocol allows.
func TestStore_largeReply(t *testing.T) {
	s, p := newPeer(t, false)
	names := strings.Repeat("a-child-of-a-large-directory\x00", 50_000)
	go func() { p.reply(p.want(wire.Directory), names) }()
	equal(t, len(must(s.List(t.Context(), "/big"))(t)), 50_000)
}

// However the bytes arrive, nothing but errors may come of them.
func FuzzStore_hostileDaemon(f *testing.F) {
	f.Add(header(wire.Read, 1, 0), uint8(1))
	f.Add(append(header(wire.Read, 1, 3), "abc"...), uint8(3))
	f.Add(append(header(wire.WatchEvent, 9, 6), "/a\x00w1\x00"...), uint8(5))
	f.Add(append(header(wire.Error, 1, 7), "ENOENT\x00"...), uint8(16))
	f.Add(append(header(wire.TransactionStart, 1, 2), "1\x00"...), uint8(200))
	f.Add(header(wire.Directory, 2, 1<<24), uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, chunk uint8) {
		client, server := net.Pipe()
		s := New(client)
		ctx := t.Context()
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.Discard, server) })
		for _, call := range []func() error{
			func() error { _, err := s.Read(ctx, "/a"); return err },
			func() error { _, err := s.List(ctx, "/a"); return err },
			func() error { _, err := s.Perms(ctx, "/a"); return err },
			func() error { return s.Tx(ctx, func(tx *Tx) error { return tx.Mkdir(ctx, "/a") }) },
			func() error {
				w, err := s.Watch(ctx, "/a")
				if err == nil {
					_, err = w.Next(ctx)
				}
				return err
			},
		} {
			wg.Go(func() { _ = call() })
		}
		for n := int(chunk) + 1; len(data) > 0; data = data[min(n, len(data)):] {
			if _, err := server.Write(data[:min(n, len(data))]); err != nil {
				break
			}
		}
		_ = server.Close()
		wg.Wait()
		_ = s.Close()
	})
}

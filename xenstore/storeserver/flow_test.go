package storeserver

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// ask makes a request and returns the first reply; an error goes by its errno.
// It skips events.
func ask(t testing.TB, c io.ReadWriter, typ wire.Type, payload string) (string, error) {
	t.Helper()
	if _, err := c.Write(wire.Append(nil, wire.Message{Type: typ, ReqID: 1, Payload: []byte(payload)})); err != nil {
		t.Fatal(err)
	}
	for {
		var head [wire.HeaderSize]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			t.Fatalf("%v %q: %v", typ, payload, err)
		}
		var d wire.Decoder
		d.Feed(head[:])
		m, whole, _ := d.Next()
		for !whole {
			var b [1]byte
			if _, err := io.ReadFull(c, b[:]); err != nil {
				t.Fatal(err)
			}
			d.Feed(b[:])
			m, whole, _ = d.Next()
		}
		switch m.Type {
		case wire.WatchEvent:
		case wire.Error:
			return "", wire.ErrnoOf(strings.TrimSuffix(string(m.Payload), "\x00"))
		default:
			return string(m.Payload), nil
		}
	}
}

// must is ask for a request that succeeds.
func must(t testing.TB, c io.ReadWriter, typ wire.Type, payload string) string {
	t.Helper()
	got, err := ask(t, c, typ, payload)
	if err != nil {
		t.Fatalf("%v %q: %v", typ, payload, err)
	}
	return got
}

// watchSilently registers a watch and reads no further than the reply.
func watchSilently(t testing.TB, c net.Conn, path string) {
	t.Helper()
	must(t, c, wire.Watch, path+"\x00token\x00")
}

func TestConn_stalledGuestIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		defer s.Close()
		guest, dom0 := pipe(s, 5), pipe(s, 0)
		defer guest.Close()
		defer dom0.Close()
		must(t, dom0, wire.Write, "/open\x00")
		must(t, dom0, wire.SetPerms, "/open\x00r0\x00")
		watchSilently(t, guest, "/open") // its first event is left unread
		time.Sleep(stallTime - time.Second)
		s.mu.Lock()
		if n := len(s.conns); n != 2 {
			t.Errorf("%d connections before the time is over, want 2", n)
		}
		s.mu.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		s.mu.Lock()
		if len(s.conns) != 1 || len(s.watches) != 0 {
			t.Errorf("%d connections and %d watched paths are left, want 1 and 0", len(s.conns), len(s.watches))
		}
		s.mu.Unlock()
		must(t, dom0, wire.Write, "/open\x00still here")
	})
}

func TestConn_stalledDom0IsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		defer s.Close()
		slow, dom0 := pipe(s, 0), pipe(s, 0)
		defer slow.Close()
		defer dom0.Close()
		watchSilently(t, slow, "/a")
		for i := range 1000 { // equal events are one
			must(t, dom0, wire.Write, fmt.Sprintf("/a/%d\x00", i%10))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		for c := range s.conns {
			if n := len(c.out.pending); n > 10 {
				t.Errorf("%d messages wait for a client that does not read, want at most 10", n)
			}
		}
		must(t, slow, wire.Write, "/b\x00") // and it can go on
	})
}

func TestConn_requestsWithoutReadingRepliesAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		defer s.Close()
		c := pipe(s, 0)
		defer c.Close()
		written := 0
		go func() {
			req := wire.Append(nil, wire.Message{Type: wire.Write, Payload: []byte("/a\x00v")})
			for {
				if _, err := c.Write(req); err != nil {
					return
				}
				written++
			}
		}()
		synctest.Wait() // all are blocked for good
		if limit := 500; written > limit {
			t.Errorf("%d requests were taken from a client that reads no reply, want at most %d", written, limit)
		}
		c.Close()
		synctest.Wait()
	})
}

func TestConn_guestPaysForEventsThatNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		defer s.Close()
		slow, dom0, guest := pipe(s, 0), pipe(s, 0), pipe(s, 5)
		defer slow.Close()
		defer dom0.Close()
		defer guest.Close()
		must(t, dom0, wire.Mkdir, "/g\x00")
		must(t, dom0, wire.SetPerms, "/g\x00n5\x00")
		watchSilently(t, slow, "/g")
		began := time.Now()
		for i := range 25 {
			must(t, guest, wire.Write, fmt.Sprintf("/g/%d\x00", i))
		}
		if took := time.Since(began); took < stallTime {
			t.Errorf("a guest could flood a watcher with 25 events in %v", took)
		}
		began = time.Now()
		must(t, dom0, wire.Write, "/g/x\x00") // nobody else waits
		if took := time.Since(began); took > 0 {
			t.Errorf("domain 0 waited %v for another one's events", took)
		}
		go io.Copy(io.Discard, slow) // now it reads
		synctest.Wait()
		for i := range 100 {
			must(t, guest, wire.Write, fmt.Sprintf("/g/%d\x00", i))
		}
		if took := time.Since(began); took > 2*stallTime {
			t.Errorf("a guest is held back though its events are read: %v", took)
		}
		slow.Close()
	})
}

func TestQueue_limit(t *testing.T) {
	q := newQueue(1000)
	event := func(path string) bool {
		return q.push(wire.Message{Type: wire.WatchEvent, Payload: wire.JoinNUL(path, "t")}, nil)
	}
	for i := range 1000 {
		if !event("/same") {
			t.Fatalf("event %d, equal to the first, is over the limit", i)
		}
	}
	n := 1
	for event(fmt.Sprintf("/%d", n)) {
		n++
	}
	if n < 20 || n > 60 || q.bytes > 1000 {
		t.Errorf("%d events in %d bytes of 1000", n, q.bytes)
	}
	for range 2 {
		if !q.push(wire.Message{Type: wire.Write, Payload: ok}, nil) {
			t.Error("a reply is over the limit")
		}
	}
}

func TestServer_malformedPayloads(t *testing.T) {
	s, _ := newServer(t)
	for _, c := range []net.Conn{pipe(s, 0), pipe(s, 5)} {
		defer c.Close()
		for _, typ := range []wire.Type{
			wire.Read, wire.Directory, wire.GetPerms, wire.Mkdir, wire.Rm,
			wire.Watch, wire.Unwatch, wire.Write, wire.SetPerms, wire.TransactionEnd, wire.GetDomainPath, wire.DirectoryPart,
		} {
			for _, payload := range []string{"", "/", "/a.b\x00", "\x00", "/\x00/\x00/\x00/\x00"} {
				if typ == wire.Write && len(payload) > 7 {
					continue // a value may hold anything
				}
				if got, err := ask(t, c, typ, payload); !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
					t.Errorf("%v %q = %q, %v; want EINVAL", typ, payload, got, err)
				}
			}
		}
	}
	c := pipe(s, 0)
	defer c.Close()
	if _, err := ask(t, c, wire.SetPerms, "@noSuchNode\x00n0\x00"); err != syscall.ENOENT {
		t.Errorf("permissions of an unknown special node: %v, want ENOENT", err)
	}
}

func TestServer_closed(t *testing.T) {
	s, _ := newServer(t)
	c := pipe(s, 0)
	must(t, c, wire.Mkdir, "/a\x00")
	s.Close()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read after Close = %v, want EOF", err)
	}
	ours, theirs := net.Pipe()
	if err := s.ServeConn(theirs, 0); err != ErrClosed {
		t.Errorf("ServeConn after Close = %v, want ErrClosed", err)
	}
	if _, err := ours.Write([]byte{1}); err == nil {
		t.Error("the stream is still open")
	}
}

func TestServer_targetGivesRights(t *testing.T) {
	s, _ := newServer(t)
	dom0, stub := pipe(s, 0), pipe(s, 6)
	defer dom0.Close()
	defer stub.Close()
	must(t, dom0, wire.Write, "/g\x00v")
	must(t, dom0, wire.SetPerms, "/g\x00n5\x00")
	if _, err := ask(t, stub, wire.Read, "/g\x00"); err != syscall.EACCES {
		t.Fatalf("Read before SET_TARGET: %v, want EACCES", err)
	}
	s.IntroduceDomain(5)
	s.IntroduceDomain(6)
	must(t, dom0, wire.SetTarget, "6\x005\x00")
	must(t, stub, wire.Read, "/g\x00")
	s.ReleaseDomain(5)
	must(t, dom0, wire.Write, "/g\x00v")
	must(t, dom0, wire.SetPerms, "/g\x00n5\x00")
	if _, err := ask(t, stub, wire.Read, "/g\x00"); err != syscall.EACCES {
		t.Errorf("Read after the target's end: %v, want EACCES", err)
	}
}

func TestServer_rightsOfTheDeadAreNotInherited(t *testing.T) {
	s, _ := newServer(t)
	dom0, old := pipe(s, 0), pipe(s, 5)
	defer dom0.Close()
	s.IntroduceDomain(5)
	must(t, dom0, wire.Write, "/shared/secret\x00v")
	must(t, dom0, wire.SetPerms, "/shared/secret\x00n0\x00b5\x00r6\x00")
	must(t, dom0, wire.SetPerms, "@releaseDomain\x00n0\x00r5\x00")
	must(t, old, wire.Read, "/shared/secret\x00")
	s.ReleaseDomain(5)
	if n, err := old.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read of the dead domain's connection = %d, %v; want EOF", n, err)
	}
	s.IntroduceDomain(5) // another domain of that number
	young := pipe(s, 5)
	defer young.Close()
	if got, err := ask(t, young, wire.Read, "/shared/secret\x00"); err != syscall.EACCES {
		t.Errorf("the next domain 5 reads %q, %v; want EACCES", got, err)
	}
	if perms := must(t, dom0, wire.GetPerms, "/shared/secret\x00"); perms != "n0\x00r6\x00" {
		t.Errorf("permissions are %q, want those of the living", perms)
	}
	if perms := s.special[releaseDomain]; len(perms) != 1 {
		t.Errorf("@releaseDomain has %v, want n0", perms)
	}
}

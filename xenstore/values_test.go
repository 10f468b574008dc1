package xenstore

import (
	"errors"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/xenstore/wire"
)

func TestValues(t *testing.T) {
	s, f := newFake(t, map[string]string{"/a": "1", "/a/b": "", "/denied": "", "/broken": ""})
	f.hook = func(m wire.Message) bool {
		switch string(m.Payload) {
		case "/denied\x00":
			f.refuse(m, "EACCES")
		case "/broken\x00":
			f.refuse(m, "EIO")
		default:
			return false
		}
		return true
	}
	v := NewValues(t.Context(), s)
	equal(t, v.Get("/a")+v.Get("/none")+v.Get("/denied"), "1")
	_, found := v.Lookup("/a/b")
	equal(t, found, true)
	_, found = v.Lookup("/none")
	equal(t, found, false)
	equal(t, v.List("/a"), []string{"b"})
	equal(t, len(v.List("/none")), 0)
	ok(t, v.Err())
	v.Get("/broken")
	equal(t, v.Get("/a"), "") // after a failure
	equal(t, len(v.List("/a")), 0)
	equal(t, v.Err(), error(&Error{Op: wire.Read, Path: "/broken", Errno: syscall.EIO}))
}

// All reads are sent before the first is answered, and within WaitUntil each node is
// watched before it is read.
func TestValues_prefetch(t *testing.T) {
	s, p := newPeer(t, false)
	got := make(chan string, 1)
	go func() {
		err := s.WaitUntil(t.Context(), func(r Reader) (bool, error) {
			v := NewValues(t.Context(), r)
			v.PrefetchBelow("/d", "a", "b")
			_, there := v.Lookup("/d/b")
			got <- v.Get("/d/a") + "," + strconv.FormatBool(there)
			return true, v.Err()
		})
		if err != nil {
			t.Error(err)
		}
		close(got)
	}()
	var sent []wire.Message
	for _, want := range []struct {
		typ  wire.Type
		path string
	}{{wire.Watch, "/d/a"}, {wire.Read, "/d/a"}, {wire.Watch, "/d/b"}, {wire.Read, "/d/b"}} {
		m := p.want(want.typ)
		path, _, _ := strings.Cut(string(m.Payload), "\x00")
		equal(t, path, want.path)
		sent = append(sent, m)
	}
	p.reply(sent[0], "OK\x00")
	p.reply(sent[1], "1")
	p.reply(sent[2], "OK\x00")
	p.refuse(sent[3], "ENOENT")
	equal(t, <-got, "1,false")
	for range 2 {
		p.reply(p.want(wire.Unwatch), "OK\x00")
	}
	<-got
}

// A node that cannot be watched is not read as if it were, and what fails shows only
// where it is asked for.
func TestValues_prefetchFails(t *testing.T) {
	s, f := newFake(t, map[string]string{"/a": "1", "/broken": ""})
	f.hook = func(m wire.Message) bool {
		if m.Type == wire.Watch || strings.HasPrefix(string(m.Payload), "/broken") {
			f.refuse(m, "EIO")
			return true
		}
		return false
	}
	v := NewValues(t.Context(), s)
	v.Prefetch("/a", "/broken", "not a path")
	equal(t, v.Get("/a"), "1")
	ok(t, v.Err())
	v.Get("/broken")
	equal(t, v.Err(), error(&Error{Op: wire.Read, Path: "/broken", Errno: syscall.EIO}))
	err := s.WaitUntil(t.Context(), func(r Reader) (bool, error) {
		v := NewValues(t.Context(), r)
		v.Prefetch("/a")
		return v.Get("/a") == "1", nil
	})
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("not watched: %v", err)
	}
}

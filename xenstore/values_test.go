package xenstore

import (
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

//go:build xen

package realhost

import (
	"testing"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// The holder finds each channel's terminal also after it could not look for a while, in
// which channels went, came and took each other's terminals: one way or another, what it
// then sees is the same.
func TestHelper_looksAway(t *testing.T) {
	startDaemon(t).ready()
	spec := func(names ...string) (specs []string) {
		for _, n := range names {
			specs = append(specs, "connection=socket,name="+n)
		}
		return specs
	}
	declare(t, "TestHelper-looksAway", "a.toml", spec("a", "b", "c")...)
	xenchan(t, "apply")
	h := startHelper(t, xlguest.Config{Agent: true})
	h.has("a", "b", "c")
	h.setUp()
	h.mapping("a", "b", "c")
	away := func(f func(), names ...string) {
		t.Helper()
		h.Run("kill -STOP $(pidof xenchan-guest)")
		f()
		h.Run("kill -CONT $(pidof xenchan-guest)")
		for _, n := range names { // what comes before a terminal is raw is echoed
			h.Await("[ -e /dev/xen-channel/" + n + " ]")
		}
		h.mapping(names...)
	}
	detached := func(name string) {
		t.Helper()
		xenchan(t, "detach", h.Name(), name)
	}
	attached := func(name string) {
		t.Helper()
		attach(t, h.Name(), "connection=socket,name="+name)
		h.has(name)
	}
	for _, n := range []string{"d", "e"} {
		attached(n)
	}
	h.mapping("d", "e")
	away(func() {
		attached("x") // takes the last one
		detached("d")
		attached("y") // takes d's
		detached("x")
		attached("d")
	}, "a", "b", "c", "d", "e", "y")

	away(func() {
		detached("d")
		attached("z")
		declare(t, "TestHelper-looksAway", "a.toml", spec("b", "a")...) // they change places, and c goes
		xenchan(t, "apply")
		h.restore()
		h.has("a", "b")
		attached("d")
	}, "a", "b", "d")

	away(func() {
		h.restore()
		h.has("a", "b")
		attached("c")
		detached("c")
		attached("z")
		attached("c")
	}, "a", "b", "c", "z")
}

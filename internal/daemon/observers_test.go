package daemon

import (
	"bytes"
	"testing"
)

// What was in the spool when an observer came is not for it, also if it is shown later.
func TestObservers_beginAtTheirPosition(t *testing.T) {
	var o observers
	x := o.add(func() int64 { return 10 })
	take := func(wantAt int64, want string, wantEnd int64) {
		t.Helper()
		if at, p, end, _ := o.take(x); at != wantAt || string(p) != want || end != wantEnd {
			t.Errorf("%q at %d, up to %d; want %q at %d, up to %d", p, at, end, want, wantAt, wantEnd)
		}
	}
	take(10, "", 10)
	o.show([]byte("all"), 4)
	take(10, "", 10)
	o.show([]byte("abcdef"), 7)
	take(10, "def", 13)
	o.show([]byte("ghi"), 13)
	o.show([]byte("jkl"), 16)
	take(13, "ghijkl", 19)
	full := bytes.Repeat([]byte("x"), observerBuffer+5)
	o.show(full, 19)
	o.show([]byte("lost"), 19+int64(len(full)))
	end := 19 + int64(len(full)) + 4
	take(19, string(full[:observerBuffer]), end)
	o.show([]byte("next"), end)
	take(end, "next", end+4)
}

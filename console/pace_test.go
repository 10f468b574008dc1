package console

import (
	"testing"
	"time"

	"github.com/xenchan/xenchan/ring"
)

// rests gives a pace the same turn n times and returns the last rest.
func rests(p *pace, n int, did work) (last time.Duration) {
	for range n {
		last = p.after(did)
	}
	return last
}

var fromLinux = work{got: 16}

// A stream of crumbs rests, longer and longer, until a quarter of the ring comes at
// once; it rests less when the guest had to wait.
func TestPace_crumbs(t *testing.T) {
	var p pace
	if got := rests(&p, steady-1, fromLinux); got != 0 {
		t.Errorf("after %d turns it rests for %v", steady-1, got)
	}
	if got := p.after(fromLinux); got != firstRest {
		t.Errorf("a stream rests for %v, want %v", got, firstRest)
	}
	if got := p.after(fromLinux); got != 2*firstRest {
		t.Errorf("then for %v", got)
	}
	if got := rests(&p, 2, work{got: ring.OutSize / 4}); got != 2*firstRest {
		t.Errorf("with enough at once for %v", got)
	}
	if got := rests(&p, 100, fromLinux); got != longRest {
		t.Errorf("at most for %v, want %v", got, longRest)
	}
	if got := p.after(work{got: ring.OutSize}); got != longRest/2 {
		t.Errorf("after a full ring for %v", got)
	}
	if got := rests(&p, 20, work{got: ring.OutSize}); got != 0 {
		t.Errorf("after many full rings for %v", got)
	}
	if got := rests(&p, distrust, fromLinux); got != 0 {
		t.Errorf("it is trusted after %d turns already: %v", distrust, got)
	}
	if got := rests(&p, steady, fromLinux); got == 0 {
		t.Error("it never rests again")
	}
}

// The same in the other direction, and in both.
func TestPace_toTheGuest(t *testing.T) {
	for _, did := range []work{{taken: 16, more: true}, {taken: 16, more: true, got: 16}} {
		var p pace
		if got := rests(&p, 100, did); got != longRest {
			t.Errorf("%+v: it rests for %v, want %v", did, got, longRest)
		}
		if got := p.after(work{taken: ring.InSize, more: true}); got != longRest/2 {
			t.Errorf("%+v: after an empty ring for %v", did, got)
		}
	}
}

// Nothing waits for a rest that is not part of a stream: questions and answers, rings
// that fill at once, and what comes after a pause.
func TestPace_noRest(t *testing.T) {
	for name, turns := range map[string][]work{
		"question and answer": {{taken: 1, answered: true}, {got: 1}},
		"one event for both":  {{taken: 1, got: 1, answered: true}},
		"full rings":          {{got: ring.OutSize}},
		"half rings":          {{got: ring.OutSize / 2}},
		"to a quick guest":    {{taken: ring.InSize, more: true}},
		"a line now and then": {{got: 16}, {got: 16}, {got: 16}, {}},
	} {
		var p pace
		for i := range 1000 {
			if got := p.after(turns[i%len(turns)]); got != 0 {
				t.Errorf("%s: turn %d rests for %v", name, i, got)
				break
			}
		}
	}
}

// Events for nothing are let in once a pause, after a few.
func TestPace_storm(t *testing.T) {
	var p pace
	if got := rests(&p, idleEvents-1, work{}); got != 0 {
		t.Errorf("the first events for nothing rest for %v", got)
	}
	for range 3 {
		if got := p.after(work{}); got != idlePause {
			t.Errorf("an event for nothing rests for %v, want %v", got, idlePause)
		}
		if got := p.after(work{}); got != 0 {
			t.Errorf("the look after the pause rests for %v", got)
		}
	}
	if got := p.after(work{got: 1}); got != 0 {
		t.Errorf("a byte after that rests for %v", got)
	}
	if got := rests(&p, idleEvents-1, work{}); got != 0 {
		t.Errorf("it is a storm again at once: %v", got)
	}
}

package guest

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// history is what a kernel does, with what only it knows.
type history struct {
	clock    uint64
	consoles []console
	irqs     map[key]irq  // each console's
	lines    map[irq]bool // all that there are; true: a console's that is sure or dead
}

func (h *history) tick() uint64 { h.clock++; return h.clock }

func (h *history) newIRQ(c console) {
	i := irq{number: int(h.clock % 5), ino: h.tick()}
	h.irqs[c.key()], h.lines[i] = i, true
}

func (h *history) plug(dev uint64) {
	c := console{id: fmt.Sprint("console-", h.clock), dev: dev, bind: h.tick()}
	h.newIRQ(c)
	h.consoles = append(h.consoles, c)
}

// remove takes a console away. A dead one's interrupt stays.
func (h *history) remove(i int) console {
	c := h.consoles[i]
	if its := h.irqs[c.key()]; c.life == dead {
		h.lines[its] = false
	} else {
		delete(h.lines, its)
	}
	delete(h.irqs, c.key())
	h.consoles = slices.Delete(h.consoles, i, i+1)
	return c
}

// restore leaves those alone that lost says.
func (h *history) restore(lost func() bool) {
	slices.SortFunc(h.consoles, func(a, b console) int { return int(a.dev) - int(b.dev) })
	for i, c := range h.consoles {
		if lost() {
			h.consoles[i].life = dead
			continue
		}
		h.lines[h.irqs[c.key()]] = false // it stays
		h.newIRQ(c)
		h.consoles[i].life = sure
	}
}

// Whatever is plugged, unplugged, lost, given back and restored, and however many of
// these happen before anybody looks: what match says is true. It says all when it has
// seen each terminal.
func TestMatch_isNeverWrong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &history{irqs: make(map[key]irq), lines: make(map[irq]bool)}
		h.lines[irq{1, h.tick()}] = true // the primary console's
		known := make(map[irq]key)
		losses := rapid.Bool().Draw(t, "losses")
		for range rapid.IntRange(1, 8).Draw(t, "looks") {
			for range rapid.IntRange(1, 8).Draw(t, "events") {
				n := len(h.consoles)
				which := func() int { return rapid.IntRange(0, n-1).Draw(t, "which") }
				switch what := rapid.IntRange(0, 9).Draw(t, "what"); {
				case n < 7 && (n == 0 || what < 4):
					h.plug(h.tick())
				case what < 7:
					h.remove(which())
				case what == 7: // taken from the driver and given back
					c := h.remove(which())
					h.plug(c.dev)
				default:
					h.restore(func() bool { return losses && rapid.IntRange(0, 3).Draw(t, "lost") == 0 })
				}
			}
			var lines []line
			all := true
			for i, used := range h.lines {
				seen := used && (i.ino == 1 || rapid.IntRange(0, 9).Draw(t, "seen") > 0)
				all = all && seen == used
				lines = append(lines, line{i, seen, seen && i.ino != 1})
			}
			for i := range known {
				if _, there := h.lines[i]; !there {
					delete(known, i)
				}
			}
			// A console that is lost before anybody has looked is like one that just comes.
			now := slices.Clone(h.consoles)
			for i, c := range now {
				if c.life == dead && !slices.Contains(slices.Collect(maps.Values(known)), c.key()) {
					now[i].life, all = unsure, false
				}
			}
			got := match(now, lines, known)
			for k, i := range got {
				if h.irqs[k] != i {
					t.Fatalf("match says %v of %v, it is %v\nconsoles %+v\nlines %v\nknown %v", i, k, h.irqs[k], now, lines, known)
				}
			}
			for _, c := range now {
				if _, ok := got[c.key()]; !ok && c.life == sure && all && !losses {
					t.Fatalf("match says nothing of %v\nconsoles %+v\nlines %v", c, now, lines)
				}
			}
			for k, i := range got {
				known[i] = k
			}
		}
	})
}

func TestInOrder(t *testing.T) {
	for release, want := range map[string]bool{"6.1.0-56-amd64": true, "5.10.0": true, "4.14.0": true, "4.13.9": false, "3.10.0": false, "": false} {
		if got := inOrder(release); got != want {
			t.Errorf("inOrder(%q) = %v", release, got)
		}
	}
}

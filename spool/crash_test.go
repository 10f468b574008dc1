package spool

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// contents is all that a log means.
type contents struct {
	pos   Positions
	bytes []byte
	ring  ringState

	losses []Loss
}

// read opens a copy of a region and takes everything out.
func read(t *testing.T, region []byte, size int, policy Overflow) (contents, error) {
	t.Helper()
	l, err := Open(Memory{Bytes: slices.Clone(region)}, size, policy, "x")
	if err != nil {
		return contents{}, err
	}
	c := contents{pos: l.Positions(), ring: l.s.ring, losses: l.LatestLosses()}
	if told := int64(l.history.told); told != c.pos.Dropped {
		t.Fatalf("%d bytes were dropped, and %d are among the losses", c.pos.Dropped, told)
	}
	if c.ring.taken == 0 {
		c.ring = ringState{}
	}
	for p := l.Peek(); p != nil; p = l.Peek() {
		c.bytes = append(c.bytes, p...)
		l.Advance(len(p), 0)
	}
	if int64(len(c.bytes)) != c.pos.Spooled {
		t.Fatalf("%d bytes come out of a log that holds %d", len(c.bytes), c.pos.Spooled)
	}
	return c, nil
}

func (c contents) equal(d contents) bool {
	return c.pos == d.pos && c.ring == d.ring && bytes.Equal(c.bytes, d.bytes) && slices.Equal(c.losses, d.losses)
}

// between says that c is before, less some of the bytes that were to be dropped
// on the way to after: room was made for what did not come.
func (c contents) between(before, after contents, flight int) bool {
	lost := c.pos.Dropped - before.pos.Dropped
	if lost <= 0 || c.pos.Dropped > after.pos.Dropped || c.pos.End != before.pos.End || c.pos.Delivered != before.pos.Delivered {
		return false
	}
	want := slices.Concat(before.bytes[:flight], before.bytes[flight+int(lost):])
	return c.ring == before.ring && bytes.Equal(c.bytes, want)
}

// A process may be killed between any two stores. What the region holds then is
// the log before or after what was going on. Between two looks at the region any
// part of the words that differ may have been written, in any order.
func TestCrash_atEveryStore(t *testing.T) {
	for _, size := range []int{4096, 5000, 20000} {
		for name, policy := range map[string]Overflow{"drop-oldest": DropOldest, "block": Block} {
			t.Run(fmt.Sprint(size, " ", name), func(t *testing.T) { crashEverywhere(t, size, policy) })
		}
	}
}

func crashEverywhere(t *testing.T, size int, policy Overflow) {
	rnd := rand.New(rand.NewPCG(uint64(size), 7))
	m := Memory{Bytes: make([]byte, RegionSize(size))}
	l, err := Format(m, size, policy, "x")
	if err != nil {
		t.Fatal(err)
	}
	var looks [][]byte
	l.onWrite = func() { looks = append(looks, slices.Clone(m.Bytes)) }
	l.Attach(RingID{1, 2}, 0, 0)
	at, partial, dropped := uint32(0), 0, 0
	for range 100 {
		if rnd.IntN(5) == 0 { // what grows from little, and around the end, is the hardest
			for p := l.Peek(); p != nil; p = l.Peek() {
				l.Advance(len(p), 0)
			}
			at += uint32(l.Append(make([]byte, 1+rnd.IntN(int(l.circle()))), at))
			l.drop(rnd.IntN(int(l.s.count)))
			at += uint32(l.Append(make([]byte, int(l.circle()-l.s.count)), at))
		}
		looks = [][]byte{slices.Clone(m.Bytes)}
		flight := int(l.s.inFlight)
		what := rnd.IntN(4)
		switch what {
		case 0, 1:
			p := make([]byte, 1+rnd.IntN(size*5/4)>>rnd.IntN(4))
			for i := range p {
				p[i] = byte(rnd.Uint32())
			}
			at += uint32(l.Append(p, at))
		case 2:
			l.Advance(len(l.Peek())*rnd.IntN(3)/2%(int(l.s.inFlight)+1), 0)
		case 3:
			l.Settle()
		}
		steps := states(t, looks, size, policy)
		for i := range looks[1:] {
			for range 6 {
				half := mix(rnd, looks[i], looks[i+1])
				got, err := read(t, half, size, policy)
				if err != nil {
					t.Fatalf("operation %d, write %d: %v", what, i, err)
				}
				if !got.equal(steps[i]) && !got.equal(steps[i+1]) {
					t.Fatalf("operation %d, write %d: %+v is neither %+v nor %+v", what, i, got.pos, steps[i].pos, steps[i+1].pos)
				}
				partial++
			}
		}
		before, after := steps[0], steps[len(steps)-1]
		for _, s := range steps {
			switch {
			case s.equal(before), s.equal(after):
			case what == 2 && s.pos == before.pos: // Peek in Peek and Advance
			case what < 2 && s.between(before, after, flight):
				dropped++
			default:
				t.Fatalf("operation %d passed through %+v on its way from %+v to %+v", what, s.pos, before.pos, after.pos)
			}
		}
	}
	if partial < 800 || policy == DropOldest && dropped == 0 {
		t.Fatalf("%d crashes, %d of them after a drop, are too few to mean anything", partial, dropped)
	}
}

func states(t *testing.T, looks [][]byte, size int, policy Overflow) []contents {
	t.Helper()
	var all []contents
	for i, b := range looks {
		c, err := read(t, b, size, policy)
		if err != nil {
			t.Fatalf("after write %d: %v", i, err)
		}
		all = append(all, c)
	}
	return all
}

// mix is a with some of the words in which b differs.
func mix(rnd *rand.Rand, a, b []byte) []byte {
	out := slices.Clone(a)
	var differ []int
	for i := 0; i+8 <= len(a); i += 8 {
		if !bytes.Equal(a[i:i+8], b[i:i+8]) {
			differ = append(differ, i)
		}
	}
	if tail := len(a) &^ 7; tail < len(a) {
		copy(out[tail:], b[tail:])
	}
	if len(differ) == 0 {
		return out
	}
	switch rnd.IntN(3) {
	case 0: // in order
		differ = differ[:rnd.IntN(len(differ)+1)]
	case 1: // from the end
		differ = differ[rnd.IntN(len(differ)):]
	default:
		rnd.Shuffle(len(differ), func(i, j int) { differ[i], differ[j] = differ[j], differ[i] })
		differ = differ[:rnd.IntN(len(differ)+1)]
	}
	for _, i := range differ {
		copy(out[i:i+8], b[i:i+8])
	}
	return out
}

// A crash while a region is made leaves one that is refused, or an empty log.
func TestCrash_inFormat(t *testing.T) {
	old := Memory{Bytes: make([]byte, RegionSize(4096))}
	l, err := Format(old, 4096, DropOldest, "old")
	if err != nil {
		t.Fatal(err)
	}
	l.Append([]byte("old bytes"), 0)
	before := slices.Clone(old.Bytes)
	seen := 0
	m := old
	m.Reserve = func(int, int) error { // is called at each step
		for _, label := range []string{"old", "new"} {
			l, err := Open(Memory{Bytes: slices.Clone(m.Bytes)}, 4096, DropOldest, label)
			if err == nil && (label != "old" || !bytes.Equal(m.Bytes, before)) {
				t.Errorf("a region in the making opens as %q with %+v", label, l.Positions())
			}
		}
		seen++
		return nil
	}
	if l, err = Format(m, 4096, DropOldest, "new"); err != nil || l.Positions() != (Positions{}) {
		t.Fatal(err)
	}
	if seen < 3 {
		t.Fatalf("only %d steps were seen", seen)
	}
	if _, err := Open(Memory{Bytes: m.Bytes}, 4096, DropOldest, "new"); err != nil {
		t.Fatal(err)
	}
}

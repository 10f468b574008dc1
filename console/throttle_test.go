package console

import (
	"testing"
	"time"

	"github.com/xenchan/xenchan/ring"
	"github.com/xenchan/xenchan/spool"
	"github.com/xenchan/xenchan/xen"
)

// terminal is a guest as Linux is one: a driver that moves the ring into a buffer as soon
// as it is told, and stops when that is nearly full; a reader that empties the buffer, and
// has the driver go on late, once it is nearly empty.
type terminal struct {
	now      time.Duration
	perKiB   time.Duration // of the reader
	late     time.Duration
	buffered float64
	stopped  bool
	resumes  time.Duration // when the driver goes on; zero while the reader is not through

	ring  int // bytes in it
	stops int
}

const (
	terminalSize = 4096
	nearly       = 128
)

// run lets time pass, in small steps, for d or until the driver has taken something; it
// returns what that took.
func (g *terminal) run(d time.Duration, untilTaken bool) (taken int) {
	const step = 10 * time.Microsecond
	for end := g.now + d; g.now < end; {
		g.now += step
		g.buffered = max(0, g.buffered-1024*float64(step)/float64(g.perKiB))
		if g.stopped && g.buffered <= nearly && g.resumes == 0 {
			g.resumes = g.now + g.late
		}
		if g.stopped && g.resumes > 0 && g.now >= g.resumes {
			g.stopped, g.resumes = false, 0
		}
		if n := min(g.ring, 128, terminalSize-int(g.buffered)); !g.stopped && n > 0 {
			g.ring -= n
			g.buffered += float64(n)
			taken += n
			if g.buffered > terminalSize-nearly {
				g.stopped = true
				g.stops++
			}
		}
		if untilTaken && taken > 0 {
			return taken
		}
	}
	return taken
}

// send sends a guest n KiB, with a throttle or nil, and says how long that took. A turn
// costs the host some time.
func (g *terminal) send(t *testing.T, h *throttle, kib int) time.Duration {
	t.Helper()
	begin, rest, full := g.now, time.Duration(0), time.Duration(0)
	for left := kib << 10; left > 0; {
		if g.now-begin > time.Minute {
			t.Fatal("the guest is never sent all")
		}
		var taken int
		switch {
		case rest > 0:
			taken = g.run(rest, false)
		case g.ring > 0:
			taken = g.run(time.Second, true)
		}
		taken += g.run(50*time.Microsecond, false)
		did := work{taken: taken}
		if full > 0 && taken > 0 {
			did.stood, full = g.now-full, 0
		}
		n := min(left, ring.InSize-g.ring)
		g.ring += n
		left -= n
		did.more, did.full = left > 0, g.ring == ring.InSize
		if did.full && n > 0 {
			full = g.now
		}
		rest = 0
		if h != nil {
			rest = h.after(did)
		}
	}
	return g.now - begin
}

// A guest that is sent more than it reads stands still most of the time; paced, it is
// sent almost what it reads, and stands still now and then.
func TestThrottle_findsTheSpeedOfAReader(t *testing.T) {
	for _, perKiB := range []time.Duration{200 * time.Microsecond, 550 * time.Microsecond, time.Millisecond} {
		unpaced, paced := &terminal{perKiB: perKiB, late: 6 * time.Millisecond}, &terminal{perKiB: perKiB, late: 6 * time.Millisecond}
		const kib = 2048
		before, now := unpaced.send(t, nil, kib), paced.send(t, new(throttle), kib)
		t.Logf("a reader of %v for a KiB: %v and %d stops without a pace, %v and %d with", perKiB, before, unpaced.stops, now, paced.stops)
		if paced.stops > unpaced.stops/3 {
			t.Errorf("a reader of %v for a KiB stands still %d times, %d without a pace", perKiB, paced.stops, unpaced.stops)
		}
		if now > before*3/5 {
			t.Errorf("a reader of %v for a KiB has all after %v, without a pace after %v", perKiB, now, before)
		}
	}
}

// filled is a turn after which the ring is full again; the guest had stood for so long.
func filled(stood time.Duration) work {
	return work{taken: ring.InSize, more: true, full: true, stood: stood}
}

// turns gives a throttle the same turn n times and returns the last rest.
func (h *throttle) turns(n int, did work) (last time.Duration) {
	for range n {
		last = h.after(did)
	}
	return last
}

// learned is a throttle that has seen a guest stand still twice.
func learned(t *testing.T) *throttle {
	t.Helper()
	h := new(throttle)
	if got := h.turns(2, filled(standstill)); got != firstGap {
		t.Fatalf("after two standstills it rests for %v", got)
	}
	return h
}

// A guest that takes what it gets is never kept waiting, nor is one whose host was late
// once, nor what fits in the ring.
func TestThrottle_leavesOthersAlone(t *testing.T) {
	h := new(throttle)
	for range 100 {
		if got := h.turns(2*apart, filled(standstill/2)); got != 0 {
			t.Fatalf("a guest that keeps up waits for %v", got)
		}
		if got := h.after(filled(2 * standstill)); got != 0 {
			t.Fatalf("after a single standstill it waits for %v", got)
		}
	}
	h = learned(t)
	for name, did := range map[string]work{
		"a question":                    {taken: 1, answered: true},
		"a guest that sends a lot":      {taken: ring.InSize, more: true, full: true, got: ring.OutSize},
		"an event of a guest at a halt": {full: true, more: true},
	} {
		if got := h.after(did); got != 0 {
			t.Errorf("%s waits for %v", name, got)
		}
	}
}

// A standstill makes the gap longer, within bounds; a halt that was hardly longer than
// the gap does not.
func TestThrottle_gap(t *testing.T) {
	h := learned(t)
	halt := func(d time.Duration) time.Duration {
		h.after(work{full: true, more: true})
		return h.after(filled(d))
	}
	if got := halt(standstill); got != firstGap {
		t.Errorf("after a short halt it rests for %v", got)
	}
	if got := halt(standstill + firstGap); got != firstGap*3/2 {
		t.Errorf("after a standstill for %v", got)
	}
	for range 20 {
		halt(standstill + mostGap)
	}
	if h.gap != mostGap {
		t.Errorf("after many for %v, want %v", h.gap, mostGap)
	}
	if got := h.turns(10, filled(mostGap)); got >= mostGap || got < mostGap*9/10 {
		t.Errorf("it tries less than what was too short soon: %v", got)
	}
	if got := h.turns(2000, filled(0)); got != 0 {
		t.Errorf("a guest that keeps up now waits for %v", got)
	}
}

// still is a page and an event channel whose turns the test takes itself.
type still struct{ page [ring.PageSize]byte }

func (s *still) Bytes() []byte  { return s.page[:] }
func (s *still) Port() xen.Port { return 1 }
func (s *still) Notify() error  { return nil }
func (s *still) Serve(xen.Turn) {}
func (s *still) Unmask() error  { return nil }
func (s *still) Close() error   { return nil }

// lines is a source of some bytes.
type lines struct{ rest []byte }

func (l *lines) Attach(spool.RingID, uint32) {}
func (l *lines) Next() []byte                { return l.rest }
func (l *lines) Advance(n int)               { l.rest = l.rest[n:] }

// fed is a Conn that is fed from there, and what the guest reads of it.
func fed(t *testing.T, from *lines) (*Conn, *ring.Consumer) {
	t.Helper()
	s := new(still)
	guest, _, err := ring.Frontend(s.page[:])
	if err != nil {
		t.Fatal(err)
	}
	c, err := AttachBackend(s, s, new(drop), from, spool.RingID{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, guest
}

// While a ring rests for the guest's reader, those who feed it wait too, and what they
// have follows with the next turn.
func TestConn_heldWhileTheReaderIsGivenTime(t *testing.T) {
	from := &lines{make([]byte, 2*ring.InSize+1)}
	c, guest := fed(t, from)
	c.throttle.gap = firstGap
	took := func() int {
		n, err := guest.Len()
		if err != nil {
			t.Fatal(err)
		}
		guest.Consume(n)
		return n
	}
	if err := c.Feed(); err != nil {
		t.Fatal(err)
	}
	if n := took(); n != ring.InSize {
		t.Fatalf("the guest got %d bytes at first", n)
	}
	if rest := c.turn(nil); rest < leastGap {
		t.Fatalf("a ring that was filled rests for %v", rest)
	}
	if n := took(); n != ring.InSize {
		t.Fatalf("the guest got %d bytes with the turn", n)
	}
	if err := c.Feed(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.TryWrite([]byte("x")); n != 0 || err != nil {
		t.Errorf("a write during the rest: %d, %v", n, err)
	}
	if n := took(); n != 0 {
		t.Errorf("the guest got %d bytes during the rest", n)
	}
	if rest := c.turn(nil); rest != 0 {
		t.Errorf("a ring with room rests for %v", rest)
	}
	if n := took(); n != 1 || len(from.rest) > 0 {
		t.Errorf("the guest got %d bytes after the rest", n)
	}
	if n, err := c.TryWrite([]byte("x")); n != 1 || err != nil {
		t.Errorf("a write after the rest: %d, %v", n, err)
	}
}

// A guest that stands still before a full ring is seen, whoever has filled that.
func TestConn_standstill(t *testing.T) {
	from := new(lines)
	c, guest := fed(t, from)
	for range 2 {
		from.rest = make([]byte, ring.InSize)
		if err := c.Feed(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(standstill)
		c.turn(nil)
		guest.Consume(16)
		c.turn(nil)
		guest.Consume(ring.InSize - 16)
		c.turn(nil)
	}
	if c.throttle.gap != firstGap {
		t.Errorf("the gap is %v, want %v", c.throttle.gap, firstGap)
	}
}

// drop is a sink that keeps nothing.
type drop struct{}

func (*drop) Attach(spool.RingID, uint32, int) int { return 0 }
func (*drop) Append(p []byte, _ uint32) int        { return len(p) }
func (*drop) Settle()                              {}
func (*drop) Flush()                               {}
func (*drop) Room() <-chan struct{}                { return nil }

// Package spool is a bounded log of the bytes that a guest has sent and no
// client has taken yet. A guest must never wait for a client (a Linux guest spins
// with interrupts off while its ring is full), so the bytes go here, and a client
// that comes late, or stalls, or is exchanged for another gets all of them in order.
//
// Every byte has a position: the number of bytes that the guest sent before it.
// A log that is full either drops its oldest bytes, and counts each of them, or
// takes no more.
//
// A log lives in memory that its owner gives. When that is a mapped file, the log
// survives the process, also one that is killed in the middle: all that changes at
// once, the positions, the place of the bytes and what was taken from the guest's
// ring, becomes valid by one store. So a byte of the guest is either still in the
// ring or in the log, and what was dropped is counted.
//
// What is beyond the process cannot be part of that store. So the bytes go to a
// client through a kernel pipe, which knows how many have left it: where the pipe
// survives the process, each byte reaches the client once. Where it does not, the
// client is gone with it, and bytes that were in the pipe are given to the next
// one, who may be the same: those of one write, 32 KiB at the most, come twice.
//
// A client may also leave without having read all that it was given, and the kernel
// says that it has, but not how much that was. So the last of those bytes stay here
// until the client is known to have read them ([Log.Unread]), and come again for the
// next one if it leaves before ([Log.Return]).
//
// The way back, from a client to the guest, is the [Inbox] in the same memory.
package spool

import (
	"fmt"
	"sync"
)

// Overflow says what a full log does with further bytes.
type Overflow int

const (
	// DropOldest makes room by dropping the oldest bytes.
	DropOldest Overflow = iota
	// Block takes no more bytes until a client has read some. The guest then
	// stands still.
	Block
)

const (
	maxFlight = 32 << 10 // bytes handed to the reader at a time
	// MaxUnread is how many bytes that a client was given and may not have read can
	// be returned.
	MaxUnread = 32 << 10
	minBuffer = 4 << 10
	keepIdle  = 64 << 10 // an empty log gives back what it has touched beyond this
)

// Positions is where a log stands. All are counts of bytes since the log began;
// Delivered + Dropped + Skipped + Spooled = End.
type Positions struct {
	End       int64 // taken from the guest
	Delivered int64 // handed to clients
	Spooled   int64 // waiting in the log
	Dropped   int64 // lost to overflow
	Skipped   int64 // given up with Skip
}

// RingID tells the rings of one guest apart: what the guest has published about
// one. A guest may use the same numbers for its next ring.
type RingID struct{ Ref, Port uint32 }

// Log is a spool with one writer and one reader, each a goroutine of its own;
// Positions may be called from anywhere.
type Log struct {
	m      Memory
	size   int
	policy Overflow

	data bell // there may be bytes to read
	room bell // there may be room again
	loss bell // bytes were dropped

	inbox *Inbox

	onWrite func() // tests look at the region after each write to it; nil otherwise

	mu      sync.Mutex
	s       state  // as committed, but in the middle of a method; guarded by mu, as all below
	cell    cell   // of s
	ring    RingID // that bytes come from
	touched int    // bytes of the data area that are reserved
	shown   int    // bytes of the flight area that are reserved
	stuck   bool   // no more could be reserved; until the log is empty
	losses  []Loss // not taken yet
	history history

	patience patience
}

// New makes a log on the heap, which is gone with the process. It holds up to
// size bytes beside those that its reader has been shown.
func New(size int, policy Overflow) (*Log, error) {
	if size < minBuffer {
		return nil, checkSize(Memory{}, size)
	}
	return Format(Memory{Bytes: make([]byte, RegionSize(size))}, size, policy, "")
}

func newLog(m Memory, size int, policy Overflow) *Log {
	return &Log{
		m: m, size: size, policy: policy,
		inbox: newInbox(m),
		cell:  cell{region: m.Bytes, at: offState, size: stateSlot}, history: newHistory(m.Bytes),
	}
}

// Attach says which ring the bytes of the next Append come from: the index of the
// first byte in it, by its page, and how many bytes it holds. Attach returns how
// many of these are in the log already, because the process that took them died
// before it could tell the ring. The caller must let them go from the ring, and
// then call Settle.
func (l *Log) Attach(id RingID, at uint32, held int) (skip int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring = id
	// Between an Append and its Settle the page's index is what it was before
	// the Append, or already what follows from it. Another ring at the same place
	// in such a moment would have to stand at the very same index.
	if r := l.s.ring; r.id == id && r.at == at && uint64(r.taken) <= uint64(max(held, 0)) {
		return int(r.taken)
	}
	return 0
}

// Append adds bytes at the end and returns how many it took: all of them under
// [DropOldest], unless the guest is to wait first (Wait), what fits under [Block]. It
// never blocks. at is the index of the
// first byte in the ring. That the bytes are in the log and that they need not be
// taken from the ring again becomes true in the same instant.
func (l *Log) Append(p []byte, at uint32) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	circle := l.grow(len(p))
	over := int(l.s.count) + len(p) - circle
	if over > 0 && (l.policy == Block || l.patience.wait(&l.room)) {
		p = p[:len(p)-over]
	} else {
		l.patience.goOn()
	}
	n := len(p)
	if n == 0 {
		return 0
	}
	if over = int(l.s.count) + n - circle; over > 0 {
		// The place of the oldest bytes is written to below, so that they must
		// be gone before.
		l.drop(min(over, int(l.s.count)))
		p = p[max(0, n-circle):]
		l.lost(int64(l.s.end), n-len(p))
	}
	to := (int(l.s.start) + int(l.s.count)) % circle
	data := l.m.Bytes[dataAt:][:circle]
	copy(data, p[copy(data[to:], p):])
	l.wrote()
	l.s.end += uint64(n)
	l.s.dropped += uint64(n - len(p))
	l.s.count += uint64(len(p))
	l.s.ring = ringState{id: l.ring, at: at, taken: uint32(n)}
	l.commit()
	l.keepLosses()
	return n
}

// Flush lets the reader know that there are bytes.
func (l *Log) Flush() { l.data.ring() }

// Settle says that the ring knows what Append or Attach returned last.
func (l *Log) Settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.s.ring.taken > 0 {
		l.s.ring.taken = 0
		l.commit()
	}
}

// drop loses the oldest n bytes of those in the circle.
func (l *Log) drop(n int) {
	if n == 0 {
		return
	}
	l.lost(int64(l.s.end-l.s.count), n)
	l.s.dropped += uint64(n)
	l.s.start = (l.s.start + uint64(n)) % l.circle()
	l.s.count -= uint64(n)
	l.commit()
	l.keepLosses()
}

// circle is the number of bytes that the data go around in. It is no larger than
// the log has needed since it was last empty, so that a channel whose client keeps
// up touches little memory.
func (l *Log) circle() uint64 { return uint64(l.size) >> l.s.shift }

// maxShift gives the smallest circle.
func (l *Log) maxShift() (shift uint64) {
	for l.size>>(shift+1) >= minBuffer {
		shift++
	}
	return shift
}

// grow makes the circle large enough for n more bytes, as far as that is allowed
// and possible, and returns its size.
func (l *Log) grow(n int) int {
	for l.s.count+uint64(n) > l.circle() && l.s.shift > 0 && !l.stuck {
		circle, next := int(l.circle()), l.size>>(l.s.shift-1)
		if next > l.touched {
			if l.stuck = l.reserve(dataAt+l.touched, next-l.touched) != nil; l.stuck {
				break
			}
			l.touched = next
		}
		// What goes around the end now continues behind it: there is as much
		// space there as there was before it.
		if around := int(l.s.start) + int(l.s.count) - circle; around > 0 {
			copy(l.m.Bytes[dataAt+circle:], l.m.Bytes[dataAt:][:around])
			l.wrote()
		}
		l.s.shift--
		l.commit()
	}
	return int(l.circle())
}

// Peek returns some of the oldest bytes that are not yet delivered, or nil when there
// are none. The bytes do not change until Advance has taken them all: overflow
// drops younger ones instead.
func (l *Log) Peek() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.s.inFlight == 0 {
		if l.s.count == 0 {
			return nil
		}
		l.launch()
		l.room.ring()
	}
	n := min(l.s.inFlight, maxFlight, flightSize-l.s.flight)
	return l.m.Bytes[flightAt+l.s.flight:][:n:n]
}

// launch moves the oldest bytes from the circle to the flight area, which is a circle
// too: they go behind those that the client may not have read.
func (l *Log) launch() {
	n := min(int(l.s.count), maxFlight)
	if l.s.unread == 0 {
		l.s.flight = 0
	}
	if !l.show(int(l.s.flight) + n) {
		if l.s.unread > 0 { // it is to be overwritten
			l.s.flight, l.s.unread = 0, 0
			l.commit()
		}
		n = min(n, l.shown)
	}
	circle := l.circle()
	data, flight := l.m.Bytes[dataAt:][:circle], l.m.Bytes[flightAt:][:flightSize]
	for done := 0; done < n; {
		from, to := (int(l.s.start)+done)%int(circle), (int(l.s.flight)+done)%flightSize
		done += copy(flight[to:], data[from:][:min(n-done, int(circle)-from)])
	}
	l.wrote()
	l.s.inFlight = uint64(n)
	l.s.start = (l.s.start + uint64(n)) % circle
	l.s.count -= uint64(n)
	if l.s.count > 0 {
		l.commit()
		return
	}
	l.emptied()
}

// show has the flight area reach up to end, and reports whether it does.
func (l *Log) show(end int) bool {
	if end = min(end, flightSize); end > l.shown {
		if l.reserve(flightAt+l.shown, end-l.shown) != nil {
			return false
		}
		l.shown = end
	}
	return true
}

// emptied commits a state in which the circle has no bytes, and gives back memory.
func (l *Log) emptied() {
	l.s.start, l.s.shift, l.stuck = 0, l.maxShift(), false
	l.commit()
	if keep := max(keepIdle, int(l.circle())); l.m.Release != nil && l.touched > keep {
		l.m.Release(dataAt+keep, l.touched-keep)
		l.touched = keep
		l.wrote()
	}
}

// Inbox is the way of the bytes for the guest.
func (l *Log) Inbox() *Inbox { return l.inbox }

// Advance says that the first n bytes of the last Peek have reached a client. If
// some were loaded, n may not be more than those. unread is as in Unread.
func (l *Log) Advance(n, unread int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n < 0 || uint64(n) > l.s.inFlight || l.s.loaded > 0 && uint64(n) > l.s.loaded {
		panic(fmt.Sprintf("spool: %d bytes delivered of the %d that were shown, %d of them loaded", n, l.s.inFlight, l.s.loaded))
	}
	if n == 0 {
		return
	}
	l.advance(uint64(n))
	l.s.unread = min(l.s.unread, uint64(unread))
	l.patience.readerMoved()
	l.commit()
}

func (l *Log) advance(n uint64) {
	l.s.flight = (l.s.flight + n) % flightSize
	l.s.inFlight -= n
	l.s.delivered += n
	l.s.loaded -= min(n, l.s.loaded)
	l.s.unread = min(l.s.unread+n, MaxUnread)
}

// Data delivers a value after Flush. It is for the one reader, who must call Peek
// before waiting here.
func (l *Log) Data() <-chan struct{} { return l.data.c() }

// Room delivers a value after bytes were taken. It is for the one writer, who
// must call Append before waiting here.
func (l *Log) Room() <-chan struct{} { return l.room.c() }

// Positions is a consistent view of where the log stands.
func (l *Log) Positions() Positions {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Positions{
		End: int64(l.s.end), Delivered: int64(l.s.delivered),
		Spooled: int64(l.s.count + l.s.inFlight), Dropped: int64(l.s.dropped), Skipped: int64(l.s.skipped),
	}
}

func (l *Log) reserve(off, n int) error {
	if l.m.Reserve == nil {
		return nil
	}
	return l.m.Reserve(off, n)
}

// wrote is called after each write to the region.
func (l *Log) wrote() {
	if l.onWrite != nil {
		l.onWrite()
	}
}

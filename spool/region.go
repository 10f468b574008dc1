package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
)

// Memory is where a log lives. What was stored in Bytes must outlast the
// process if the log is to: a shared mapping of a file does that, and then a
// process may be killed between any two instructions.
type Memory struct {
	// Bytes is [RegionSize] bytes, its start aligned to 8.
	Bytes []byte
	// Reserve sees to it that n bytes from an offset on can be written: a file
	// with holes may have no space for them, and the store then ends the process.
	// The log asks before it touches bytes for the first time, one call at a time.
	// When it fails, the log makes do with what it has, until it is empty. Nil
	// means that all of Bytes can be written.
	Reserve func(off, n int) error
	// Release says that n bytes from an offset on are of no use any more, until
	// Reserve is called for them again. It may be nil.
	Release func(off, n int)
}

// The region:
//
//	    0  header: what the log is, the cells of the log's and the inbox's state, and of its losses
//	 4096  inbox: the bytes for the guest
//	 8192  flight: the bytes that the reader was shown, a circle
//	73728  data: a circle of size bytes, or of a fraction of it
const (
	inboxAt  = 4 << 10
	flightAt = inboxAt + InboxSize
	dataAt   = flightAt + flightSize

	flightSize = MaxUnread + maxFlight

	offMagic  = 0 // written last when a region is made
	offSize   = 8
	offState  = 64
	stateSlot = 128
	offInbox  = 384
	inboxSlot = 64
	offLabel  = 1024 // its length in 8 bytes, and the label
	maxLabel  = offLosses - offLabel - 8
	offLosses = 2048

	lossesSlot = 16 + maxLosses*24
)

// magic is the format and its version. A format that changes gets another one.
const magic = 0x33_6c_6f_6f_70_73_63_78 // "xcspool3"

// maxPosition keeps sums of positions from overflowing.
const maxPosition = 1 << 62

// state is all that a log is, beside the bytes. It is committed as a whole.
type state struct {
	end, delivered, dropped, skipped uint64

	shift        uint64 // the circle is size >> shift bytes
	start, count uint64 // the bytes in the circle
	flight       uint64 // offset of the bytes in flight in their area
	inFlight     uint64 // how many there are
	loaded       uint64 // of them, those in the pipe to the client
	unread       uint64 // the bytes before them, as many as the client may not have read
	stale        bool   // what the pipe has was returned

	ring ringState
}

// ringState is what the log has taken from a ring that may not know it yet.
type ringState struct {
	id    RingID
	at    uint32 // index of the first byte that was taken last
	taken uint32 // how many those were; 0 when the ring knows
}

// RegionSize is the size in bytes of the memory for a log that holds size bytes
// beside those that its reader has been shown.
func RegionSize(size int) int { return dataAt + size }

// ErrUnusable says that memory does not hold a log that could be gone on with.
var ErrUnusable = errors.New("this is not the spool that was expected")

func checkSize(m Memory, size int) error {
	switch {
	case size < minBuffer:
		return fmt.Errorf("a spool of %d bytes is too small, the least is %d", size, minBuffer)
	case len(m.Bytes) != RegionSize(size) || !aligned(m.Bytes):
		return fmt.Errorf("a spool of %d bytes needs an aligned region of %d bytes, not %d", size, RegionSize(size), len(m.Bytes))
	}
	return nil
}

// Format begins an empty log in memory of any content. The label says what the
// bytes belong to.
func Format(m Memory, size int, policy Overflow, label string) (*Log, error) {
	if err := checkSize(m, size); err != nil {
		return nil, err
	}
	if len(label) > maxLabel {
		return nil, fmt.Errorf("a spool's label of %d bytes is too long", len(label))
	}
	l := newLog(m, size, policy)
	l.s.shift = l.maxShift()
	if err := l.reserve(0, flightAt); err != nil {
		return nil, err
	}
	atomic.StoreUint64(word(m.Bytes, offMagic), 0)
	clear(m.Bytes[8:inboxAt])
	put(m.Bytes, offSize, uint64(size))
	put(m.Bytes, offLabel, uint64(len(label)))
	copy(m.Bytes[offLabel+8:], label)
	l.commit()
	l.inbox.commit()
	l.history.dirty = true
	l.keepLosses()
	if err := l.settleIn(); err != nil {
		return nil, err
	}
	atomic.StoreUint64(word(m.Bytes, offMagic), magic)
	return l, nil
}

// Open goes on with the log that memory holds. Memory with anything else in it,
// or with a log of another size or label, is [ErrUnusable]: see [Format].
func Open(m Memory, size int, policy Overflow, label string) (*Log, error) {
	if err := checkSize(m, size); err != nil {
		return nil, err
	}
	b := m.Bytes
	if get(b, offMagic) != magic || get(b, offSize) != uint64(size) {
		return nil, fmt.Errorf("%w: another format or size", ErrUnusable)
	}
	if n := get(b, offLabel); n > maxLabel || string(b[offLabel+8:][:n]) != label {
		return nil, fmt.Errorf("%w: it belongs to something else", ErrUnusable)
	}
	l := newLog(m, size, policy)
	l.cell.load()
	l.s.decode(l.cell.slot())
	if err := errors.Join(l.check(), l.inbox.open()); err != nil {
		return nil, err
	}
	if err := l.settleIn(); err != nil {
		return nil, err
	}
	l.openLosses()
	return l, nil
}

// check refuses states that no log commits, so that nothing later is out of bounds.
func (l *Log) check() error {
	s := &l.s
	switch {
	case s.end > maxPosition || s.delivered > maxPosition || s.dropped > maxPosition || s.skipped > maxPosition,
		s.shift > l.maxShift(),
		s.start >= l.circle() || s.count > l.circle(),
		s.flight >= flightSize || s.unread > min(MaxUnread, s.delivered) || s.inFlight > flightSize-s.unread,
		s.loaded > s.inFlight || s.stale && s.loaded > 0,
		s.delivered+s.dropped+s.skipped+s.count+s.inFlight != s.end:
		return fmt.Errorf("%w: its positions are impossible", ErrUnusable)
	}
	return nil
}

// settleIn reserves what the log uses from the start, and gives up the rest.
func (l *Log) settleIn() error {
	l.shown = max(minBuffer, int(min(l.s.flight+l.s.inFlight, flightSize)))
	if l.s.unread > l.s.flight {
		l.shown = flightSize
	}
	l.touched = int(l.circle())
	if err := l.reserve(0, flightAt+l.shown); err != nil {
		return err
	}
	if err := l.reserve(dataAt, l.touched); err != nil {
		return err
	}
	if l.m.Release != nil && l.touched < l.size {
		l.m.Release(dataAt+l.touched, l.size-l.touched)
	}
	return nil
}

// commit makes the state in l.s the one that the region holds.
func (l *Log) commit() {
	l.s.encode(l.cell.next())
	l.wrote()
	l.cell.commit()
	l.wrote()
}

func (s *state) encode(b []byte) {
	put(b, 0, s.end)
	put(b, 8, s.delivered)
	put(b, 16, s.dropped)
	put(b, 24, s.shift)
	put(b, 32, s.start)
	put(b, 40, s.count)
	put(b, 48, s.flight)
	put(b, 56, s.inFlight)
	put(b, 64, s.ring.id.word())
	put(b, 72, uint64(s.ring.at)<<32|uint64(s.ring.taken))
	put(b, 80, s.loaded)
	put(b, 88, s.skipped)
	put(b, 96, s.unread)
	put(b, 104, 0)
	if s.stale {
		put(b, 104, 1)
	}
}

func (s *state) decode(b []byte) {
	s.end = get(b, 0)
	s.delivered = get(b, 8)
	s.dropped = get(b, 16)
	s.shift = get(b, 24)
	s.start = get(b, 32)
	s.count = get(b, 40)
	s.flight = get(b, 48)
	s.inFlight = get(b, 56)
	taken := get(b, 72)
	s.ring = ringState{id: ringID(get(b, 64)), at: uint32(taken >> 32), taken: uint32(taken)}
	s.loaded = get(b, 80)
	s.skipped = get(b, 88)
	s.unread = get(b, 96)
	s.stale = get(b, 104) != 0
}

func (id RingID) word() uint64  { return uint64(id.Ref)<<32 | uint64(id.Port) }
func ringID(word uint64) RingID { return RingID{Ref: uint32(word >> 32), Port: uint32(word)} }

func put(b []byte, off int, v uint64) { binary.NativeEndian.PutUint64(b[off:], v) }
func get(b []byte, off int) uint64    { return binary.NativeEndian.Uint64(b[off:]) }

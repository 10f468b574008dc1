package spool

import (
	"fmt"
	"sync"
)

// InboxSize is how many bytes an [Inbox] holds.
const InboxSize = 4 << 10

// Inbox holds the bytes that have left a client and are not yet in the guest's
// ring. It is the other direction's part of a [Log]'s region, and like the log it
// survives a process that is killed at any instruction, if the pipe survives too
// through which the bytes come:
//
//	client ─ splice ─► pipe ─ read ─► inbox ─ copy ─► guest's ring
//
// The kernel counts what is in the pipe; the inbox knows how many bytes went into
// it (Begin), and therefore how many have come out. The ring counts what is in it;
// the inbox knows where its first byte went (Attach, Advance), and therefore how
// many have followed. So each step may be cut off, and is taken up where it was.
//
// Attach may be called while another goroutine uses the other methods.
type Inbox struct {
	onWrite func() // tests look at the region; nil otherwise
	buf     []byte

	mu   sync.Mutex
	cell cell       // guarded by mu
	s    inboxState // as committed, but in the middle of a method; guarded by mu
}

type inboxState struct {
	size  uint32 // bytes that went into the pipe for this box
	done  uint32 // of them, those in the ring
	ready uint32 // 1 when all of them have come out of the pipe
	at    uint32 // the ring's producer index at the first byte that is not done
	ring  RingID
	total uint64 // bytes that rings were given since the log began
}

func newInbox(m Memory) *Inbox {
	return &Inbox{
		buf:  m.Bytes[inboxAt:][:InboxSize:InboxSize],
		cell: cell{region: m.Bytes, at: offInbox, size: inboxSlot},
	}
}

// open takes over what the region holds.
func (b *Inbox) open() error {
	b.cell.load()
	b.s.decode(b.cell.slot())
	if s := &b.s; s.size > InboxSize || s.done > s.size || s.ready > 1 || s.ready == 0 && s.done > 0 || s.total > maxPosition {
		return fmt.Errorf("%w: its inbox is impossible", ErrUnusable)
	}
	return nil
}

// Begin says that n bytes are in the pipe, and returns the place for them. The
// inbox and, before these, the pipe must have been empty.
func (b *Inbox) Begin(n int) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n < 0 || n > InboxSize || b.s.size > 0 {
		panic(fmt.Sprintf("spool: %d bytes for an inbox that has %d", n, b.s.size))
	}
	b.s.size, b.s.done, b.s.ready = uint32(n), 0, 0
	b.commit()
	return b.buf[:n]
}

// Resume says how many bytes are in the pipe after a restart, and returns the
// place for them.
func (b *Inbox) Resume(piped int) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	size := int(b.s.size)
	switch {
	case size == 0 && piped <= InboxSize: // they came just before the end
		b.s.size = uint32(piped)
		b.commit()
		return b.buf[:piped], nil
	case b.s.ready == 0 && piped <= size:
		return b.buf[size-piped : size], nil
	case b.s.ready == 1 && piped == 0:
		return nil, nil
	}
	return nil, fmt.Errorf("%w: %d bytes in a pipe whose inbox has %d", ErrUnusable, piped, size)
}

// Restart says that the pipe has not survived. What was in it is gone with the
// client; bytes that came out of it are kept if they are complete.
func (b *Inbox) Restart() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.s.ready == 0 {
		b.s.size = 0
		b.commit()
	}
}

// Ready says that all bytes have come out of the pipe.
func (b *Inbox) Ready() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.s.size > 0 {
		b.s.ready = 1
		b.commit()
	}
}

// Attach says which ring the bytes go to now and what its producer index is. Bytes
// that this ring has already, because the process ended before it could say so,
// are done.
func (b *Inbox) Attach(id RingID, at uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &b.s
	if extra := at - s.at; s.ring == id && s.ready == 1 && extra <= s.size-s.done {
		s.advance(extra)
	}
	s.ring, s.at = id, at
	b.commit()
}

// Next is what the ring is to get next, nil when there is nothing.
func (b *Inbox) Next() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.s.ready == 0 {
		return nil
	}
	return b.buf[b.s.done:b.s.size]
}

// Advance says that the ring has got the first n bytes of Next. It must come
// before an Attach to another ring.
func (b *Inbox) Advance(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n < 0 || uint32(n) > b.s.size-b.s.done {
		panic(fmt.Sprintf("spool: %d bytes sent of the %d that an inbox had", n, b.s.size-b.s.done))
	}
	b.s.advance(uint32(n))
	b.s.at += uint32(n)
	b.commit()
}

func (s *inboxState) advance(n uint32) {
	s.done += n
	s.total += uint64(n)
	if s.done == s.size {
		s.size, s.done, s.ready = 0, 0, 0
	}
}

// Total is how many bytes rings were given since the log began.
func (b *Inbox) Total() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(b.s.total)
}

func (b *Inbox) commit() {
	b.s.encode(b.cell.next())
	b.wrote()
	b.cell.commit()
	b.wrote()
}

func (b *Inbox) wrote() {
	if b.onWrite != nil {
		b.onWrite()
	}
}

func (s *inboxState) encode(p []byte) {
	put(p, 0, uint64(s.size)<<32|uint64(s.done))
	put(p, 8, uint64(s.ready)<<32|uint64(s.at))
	put(p, 16, s.ring.word())
	put(p, 24, s.total)
}

func (s *inboxState) decode(p []byte) {
	sizes, ready := get(p, 0), get(p, 8)
	s.size, s.done = uint32(sizes>>32), uint32(sizes)
	s.ready, s.at = uint32(ready>>32), uint32(ready)
	s.ring = ringID(get(p, 16))
	s.total = get(p, 24)
}

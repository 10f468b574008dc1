// Package spool is a bounded log of the bytes that a guest has sent and no
// client has taken yet. A guest must never wait for a client (a Linux guest spins
// with interrupts off while its ring is full), so the bytes go here, and a client
// that comes late, or stalls, or is exchanged for another gets all of them in order.
//
// Every byte has a position: the number of bytes that the guest sent before it.
// A log that is full either drops its oldest bytes, and counts each of them, or
// takes no more.
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
	minBuffer = 4 << 10
	keepIdle  = 16 << 10 // a larger buffer is given back when the log is empty
)

// Positions is where a log stands. All are counts of bytes since the log began;
// Delivered + Dropped + Spooled = End.
type Positions struct {
	End       int64 // taken from the guest
	Delivered int64 // handed to clients
	Spooled   int64 // waiting in the log
	Dropped   int64 // lost to overflow
}

// Log is a spool with one writer and one reader, each a goroutine of its own;
// Positions may be called from anywhere.
type Log struct {
	size   int
	policy Overflow

	data chan struct{} // capacity 1: there may be bytes to read
	room chan struct{} // capacity 1: there may be room again

	mu     sync.Mutex
	buf    []byte // circular, grows up to size; guarded by mu, as all below
	head   int    // index of the oldest byte in buf
	count  int    // bytes in buf
	flight []byte // older than all of buf: shown to the reader, not yet delivered
	block  []byte // the memory that flight is part of
	pos    Positions
}

// New makes a log that holds up to size bytes beside those that its reader has
// been shown. Memory is taken as it is needed.
func New(size int, policy Overflow) (*Log, error) {
	if size < minBuffer {
		return nil, fmt.Errorf("a spool of %d bytes is too small, the least is %d", size, minBuffer)
	}
	return &Log{
		size: size, policy: policy,
		data: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}, nil
}

// Append adds bytes at the end and returns how many it took: all of them under
// [DropOldest], what fits under [Block]. It never blocks.
func (l *Log) Append(p []byte) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.policy == Block {
		p = p[:min(len(p), l.size-l.count)]
	}
	n := len(p)
	if n == 0 {
		return 0
	}
	if over := l.count + n - l.size; over > 0 {
		l.drop(over)
		if skip := n - l.size; skip > 0 {
			p = p[skip:]
		}
	}
	l.grow(l.count + len(p))
	at := (l.head + l.count) % len(l.buf)
	copy(l.buf, p[copy(l.buf[at:], p):])
	l.count += len(p)
	l.pos.End += int64(n)
	signal(l.data)
	return n
}

// drop loses the oldest n bytes of those in the buffer and those about to come.
func (l *Log) drop(n int) {
	l.pos.Dropped += int64(n)
	n = min(n, l.count)
	l.count -= n
	if l.count == 0 {
		l.head = 0
	} else {
		l.head = (l.head + n) % len(l.buf)
	}
}

func (l *Log) grow(need int) {
	if need <= len(l.buf) {
		return
	}
	size := max(len(l.buf), minBuffer)
	for size < need {
		size *= 2
	}
	next := make([]byte, min(size, l.size))
	l.copyOldest(next[:l.count])
	l.buf, l.head = next, 0
}

func (l *Log) copyOldest(p []byte) {
	if len(p) > 0 {
		n := copy(p, l.buf[l.head:])
		copy(p[n:], l.buf)
	}
}

// Peek returns the oldest bytes that are not yet delivered, or nil when there
// are none. The bytes do not change until Advance has taken them all: overflow
// drops younger ones instead.
func (l *Log) Peek() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.flight) > 0 || l.count == 0 {
		return l.flight
	}
	n := min(l.count, maxFlight)
	if n > len(l.block) {
		size := minBuffer
		for size < n {
			size *= 2
		}
		l.block = make([]byte, size)
	}
	l.flight = l.block[:n]
	l.copyOldest(l.flight)
	l.count -= n
	l.head = (l.head + n) % len(l.buf)
	if l.count == 0 {
		l.head = 0
		if len(l.buf) > keepIdle {
			l.buf = nil
		}
	}
	signal(l.room)
	return l.flight
}

// Advance says that the first n bytes of the last Peek have reached a client.
func (l *Log) Advance(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flight = l.flight[n:]
	l.pos.Delivered += int64(n)
	if len(l.flight) == 0 {
		l.flight = nil
		if l.count == 0 && len(l.block) > keepIdle {
			l.block = nil
		}
	}
}

// Data delivers a value after bytes were appended. It is for the one reader, who
// must call Peek before waiting here.
func (l *Log) Data() <-chan struct{} { return l.data }

// Room delivers a value after bytes were taken. It is for the one writer, who
// must call Append before waiting here.
func (l *Log) Room() <-chan struct{} { return l.room }

// Positions is a consistent view of where the log stands.
func (l *Log) Positions() Positions {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pos
	p.Spooled = int64(len(l.flight) + l.count)
	return p
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Package ring is the shared page of a PV console: two byte rings and their
// indices. It is arithmetic on memory and makes no system call; who tells the
// peer, and when, is the caller's business.
//
// The layout is Xen's public header io/console.h, struct xencons_interface:
//
//	offset  size  field      written by
//	     0  1024  in         backend    bytes for the guest
//	  1024  2048  out        frontend   bytes from the guest
//	  3072     4  in_cons    frontend
//	  3076     4  in_prod    backend
//	  3080     4  out_cons   backend
//	  3084     4  out_prod   frontend
//
// Indices run freely through 2^32; a byte lies at index modulo ring size, and
// producer minus consumer is the number of bytes in the ring.
//
// The peer is hostile. Each end keeps its own index privately and never reads it
// back from the page; the peer's index is loaded once per call and checked
// before it is used. An index that claims more bytes than the ring holds is
// [ErrCorrupt], for ever: the ring cannot be used again. Bytes are read from the
// page once.
package ring

import (
	"errors"
	"fmt"
)

// Sizes in bytes.
const (
	PageSize = 4096
	InSize   = 1024 // capacity towards the guest
	OutSize  = 2048 // capacity from the guest
)

const (
	offIn, offOut          = 0, InSize
	offInCons, offInProd   = 3072, 3076
	offOutCons, offOutProd = 3080, 3084
)

// ErrCorrupt says that the peer's index is impossible.
var ErrCorrupt = errors.New("ring indices are corrupt")

// Consumer takes bytes out of one ring. It is not safe for concurrent use.
type Consumer struct {
	data []byte
	prod index  // the peer's
	cons index  // ours, published by Consume
	next uint32 // ours, trusted
	bad  error
}

// Producer puts bytes into one ring. It is not safe for concurrent use.
type Producer struct {
	data []byte
	cons index  // the peer's
	prod index  // ours, published by Write
	next uint32 // ours, trusted
	bad  error
}

// Backend opens the host's end: out is consumed and in is produced. The indices
// that this end owns are taken over from the page, so that a restarted backend
// goes on where the last one stopped.
func Backend(page []byte) (*Consumer, *Producer, error) {
	if err := checkPage(page); err != nil {
		return nil, nil, err
	}
	return open(
		page[offOut:offOut+OutSize], indexAt(page, offOutProd), indexAt(page, offOutCons),
		page[offIn:offIn+InSize], indexAt(page, offInProd), indexAt(page, offInCons))
}

// Frontend opens the guest's end: in is consumed and out is produced.
func Frontend(page []byte) (*Consumer, *Producer, error) {
	if err := checkPage(page); err != nil {
		return nil, nil, err
	}
	return open(
		page[offIn:offIn+InSize], indexAt(page, offInProd), indexAt(page, offInCons),
		page[offOut:offOut+OutSize], indexAt(page, offOutProd), indexAt(page, offOutCons))
}

func checkPage(page []byte) error {
	if len(page) != PageSize || !aligned(page) {
		return fmt.Errorf("a console ring needs one aligned page of %d bytes, not %d", PageSize, len(page))
	}
	return nil
}

func open(rx []byte, rxProd, rxCons index, tx []byte, txProd, txCons index) (*Consumer, *Producer, error) {
	c := &Consumer{data: rx, prod: rxProd, cons: rxCons, next: rxCons.load()}
	p := &Producer{data: tx, cons: txCons, prod: txProd, next: txProd.load()}
	if _, err := c.Len(); err != nil {
		return nil, nil, err
	}
	if _, err := p.Free(); err != nil {
		return nil, nil, err
	}
	return c, p, nil
}

// Index is the free-running index of the next byte.
func (c *Consumer) Index() uint32 { return c.next }

// Len is the number of bytes that can be read now.
func (c *Consumer) Len() (int, error) {
	if c.bad != nil {
		return 0, c.bad
	}
	used := c.prod.load() - c.next
	if used > uint32(len(c.data)) {
		c.bad = fmt.Errorf("%w: %d bytes claimed in a ring of %d", ErrCorrupt, used, len(c.data))
		return 0, c.bad
	}
	return int(used), nil
}

// Peek copies bytes into p without taking them and returns how many.
func (c *Consumer) Peek(p []byte) (int, error) {
	n, err := c.Len()
	if err != nil {
		return 0, err
	}
	return copyOut(p[:min(n, len(p))], c.data, c.next), nil
}

// Consume takes n bytes that a Peek has returned and tells the peer that their
// place is free. n must not be larger than what the Peek returned.
func (c *Consumer) Consume(n int) {
	c.next += uint32(n)
	c.cons.store(c.next)
}

// Index is the free-running index of the next byte.
func (p *Producer) Index() uint32 { return p.next }

// Free is the number of bytes that can be written now.
func (p *Producer) Free() (int, error) {
	if p.bad != nil {
		return 0, p.bad
	}
	used := p.next - p.cons.load()
	if used > uint32(len(p.data)) {
		p.bad = fmt.Errorf("%w: %d bytes claimed in a ring of %d", ErrCorrupt, used, len(p.data))
		return 0, p.bad
	}
	return len(p.data) - int(used), nil
}

// Write copies as many bytes of b into the ring as fit, publishes them and
// returns how many that were.
func (p *Producer) Write(b []byte) (int, error) {
	free, err := p.Free()
	if err != nil {
		return 0, err
	}
	n := min(free, len(b))
	if n == 0 {
		return 0, nil
	}
	copyIn(p.data, p.next, b[:n])
	p.next += uint32(n)
	p.prod.store(p.next)
	return n, nil
}

// Size is the capacity of the ring in bytes.
func (p *Producer) Size() int { return len(p.data) }

// copyOut copies len(p) bytes that begin at a free-running index.
func copyOut(p, data []byte, at uint32) int {
	at &= uint32(len(data) - 1)
	n := copy(p, data[at:])
	return n + copy(p[n:], data)
}

// copyIn copies b into data from a free-running index on.
func copyIn(data []byte, at uint32, b []byte) {
	at &= uint32(len(data) - 1)
	n := copy(data[at:], b)
	copy(data, b[n:])
}

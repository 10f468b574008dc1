// Package console attaches PV consoles: it joins a ring, an event channel and
// the xenbus states into one byte stream between a guest and its backend.
//
// A [Conn] is one attached ring and a [net.Conn]. [Backend] runs one device for
// its whole life, from the nodes that a toolstack wrote to the moment they go.
package console

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenchan/xenchan/ring"
	"github.com/xenchan/xenchan/spool"
	"github.com/xenchan/xenchan/xen"
)

// ErrHungUp is the error of a Write after the other half has closed.
var ErrHungUp = errors.New("the other half of the console has closed")

// Conn is one attached ring. It satisfies [net.Conn]: all methods are safe for
// concurrent use, and deadlines and Close wake blocked calls.
//
// Events are served in the goroutine that the hypervisor has for all of them. One
// more, owned by the Conn and joined by Close, waits for room in the sink while that
// is full.
type Conn struct {
	pages xen.Pages
	event xen.EventChannel
	sink  Sink   // nil: Read takes the bytes
	from  Source // nil: they come by Write

	rxMu   sync.Mutex
	rx     *ring.Consumer // guarded by rxMu
	closed bool           // the page is gone; guarded by rxMu and txMu together
	refill bool           // a goroutine waits for room in the sink; guarded by rxMu

	txMu  sync.Mutex
	tx    *ring.Producer // guarded by txMu
	taken uint32         // how far the other half was, by the last event; guarded by txMu
	sent  bool           // something was written; guarded by txMu
	// All that the source had went into the ring, outside of a turn: the next bytes of
	// the other half may be an answer. Guarded by txMu.
	answered bool

	held bool      // nothing is written before the next turn; guarded by txMu
	full time.Time // since when there has been no room; zero while there is; guarded by txMu

	pace     pace     // for turn alone
	throttle throttle // for turn alone

	wmu sync.Mutex // one Write at a time, so that writes do not mix

	readable, writable chan struct{} // capacity 1: look at the ring again
	readBy, writeBy    *deadline
	closing            chan struct{} // closed by Close
	hungUp             chan struct{} // closed by HangUp
	failed             chan struct{} // closed when the ring is corrupt or the event channel broke
	failure            error         // set before failed is closed
	onFail             atomic.Pointer[func()]
	closeOnce, hupOnce sync.Once
	failOnce           sync.Once
	closeErr           error
	workers            sync.WaitGroup // who waits for room in the sink

	received, written atomic.Int64
}

var _ net.Conn = (*Conn)(nil)

// AttachBackend attaches the backend's half of a ring that a guest has shared. A
// ring whose indices are impossible is refused. With a sink, all bytes from the
// guest go to it as they come, and leave the ring only when it has them; without
// one they wait in the ring for Read. With a source, Feed takes the bytes for the
// guest from there. The id is for both. AttachBackend owns pages and event from its
// call on: they are closed on failure too.
func AttachBackend(pages xen.Pages, event xen.EventChannel, sink Sink, from Source, id spool.RingID) (*Conn, error) {
	rx, tx, err := ring.Backend(pages.Bytes())
	if err == nil && sink != nil {
		err = resume(rx, event, sink, id)
	}
	if err == nil && from != nil {
		err = goOn(tx, event, from, id)
	}
	return newConn(pages, event, sink, from, rx, tx, err)
}

// AttachFrontend attaches the guest's half of a ring in a page of its own.
func AttachFrontend(pages xen.Pages, event xen.EventChannel) (*Conn, error) {
	rx, tx, err := ring.Frontend(pages.Bytes())
	return newConn(pages, event, nil, nil, rx, tx, err)
}

func newConn(pages xen.Pages, event xen.EventChannel, sink Sink, from Source, rx *ring.Consumer, tx *ring.Producer, err error) (*Conn, error) {
	if err != nil {
		return nil, errors.Join(err, event.Close(), pages.Close())
	}
	c := &Conn{
		pages: pages, event: event, sink: sink, from: from, rx: rx, tx: tx,
		readable: make(chan struct{}, 1), writable: make(chan struct{}, 1),
		readBy: newDeadline(), writeBy: newDeadline(),
		closing: make(chan struct{}), hungUp: make(chan struct{}), failed: make(chan struct{}),
	}
	c.turn(nil) // what came before the attach has no event
	event.Serve(c.turn)
	return c, nil
}

// turn serves the ring after an event, and says how long the next one may wait.
func (c *Conn) turn(err error) (rest time.Duration) {
	var did work
	if err == nil {
		did, err = c.serve()
	}
	if err != nil {
		c.fail(err)
		return xen.Masked
	}
	if c.sink == nil {
		return 0
	}
	return c.rest(did)
}

// serve looks at both halves of the ring and moves what can be moved.
func (c *Conn) serve() (did work, err error) {
	if did, err = c.roomMade(); err != nil {
		return did, err
	}
	if c.sink == nil {
		wake(c.readable)
		return did, nil
	}
	c.rxMu.Lock()
	took, blocked, err := c.drain()
	if blocked && !c.refill {
		c.refill = true
		c.workers.Go(c.awaitRoom)
	}
	c.rxMu.Unlock()
	if took > 0 {
		c.sink.Flush()
	}
	did.got = took
	return did, err
}

// roomMade looks how much the other half has taken since the last call. What the
// source has follows at once; who waits to write is woken when that is all.
func (c *Conn) roomMade() (did work, err error) {
	c.txMu.Lock()
	defer c.txMu.Unlock()
	if c.closed {
		return did, os.ErrClosed
	}
	did.answered = c.answered
	c.answered, c.held = false, false
	free, err := c.tx.Free()
	if err != nil {
		return did, err
	}
	did.full = free == 0
	taken := c.tx.Index() + uint32(free) // the other half's index and the ring's size
	if taken == c.taken {
		return did, nil
	}
	did.taken = int(taken - c.taken)
	c.taken = taken
	if !c.full.IsZero() {
		did.stood = time.Since(c.full)
		c.full = time.Time{}
	}
	if c.from != nil {
		err := c.feed() // the writer gets this error too
		did.more = err == nil && len(c.from.Next()) > 0
		did.full = c.tx.Index() == taken
	}
	if !did.more {
		wake(c.writable)
	}
	return did, nil
}

// awaitRoom goes on with the ring as the sink gets room, until it can take all.
func (c *Conn) awaitRoom() {
	for blocked := true; blocked; {
		select {
		case <-c.sink.Room():
		case <-c.closing:
			return
		}
		c.rxMu.Lock()
		var took int
		var err error
		took, blocked, err = c.drain()
		c.refill = blocked
		c.rxMu.Unlock()
		if took > 0 {
			c.sink.Flush()
		}
		if err != nil {
			c.fail(err)
		}
	}
}

// drain moves what is in the ring to the sink. The work is bounded: a guest that
// fills the ring as fast as it is emptied gets its next turn with its next event,
// which it must send for these bytes too. The caller holds rxMu.
func (c *Conn) drain() (moved int, blocked bool, err error) {
	buf := buffers.Get().(*[ring.OutSize]byte)
	defer buffers.Put(buf)
	for range 8 {
		if c.closed {
			return moved, false, os.ErrClosed
		}
		n, err := c.rx.Peek(buf[:])
		if err != nil {
			return moved, false, err
		}
		if n == 0 {
			break
		}
		took := c.sink.Append(buf[:n], c.rx.Index())
		c.rx.Consume(took)
		c.sink.Settle()
		c.received.Add(int64(took))
		moved += took
		if blocked = took < n; blocked {
			break
		}
	}
	if moved > 0 {
		err = c.event.Notify()
	}
	return moved, blocked, err
}

// buffers are for bytes between a ring and its sink.
var buffers = sync.Pool{New: func() any { return new([ring.OutSize]byte) }}

// Drain takes what is left in the ring for the sink, as before letting go of it. It
// asks a sink that is full again for a second.
func (c *Conn) Drain() {
	for range 100 {
		if c.sink == nil {
			return
		}
		c.rxMu.Lock()
		took, blocked, _ := c.drain()
		c.rxMu.Unlock()
		if took > 0 {
			c.sink.Flush()
		}
		if !blocked {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Read reads what the other half has sent. After HangUp it returns [io.EOF] once
// the ring is empty. A Conn with a sink has nothing to read.
func (c *Conn) Read(p []byte) (int, error) {
	if c.sink != nil {
		return 0, c.opError("read", errors.New("the console's bytes go to a sink"))
	}
	for {
		hungUp := done(c.hungUp) // before looking: bytes sent before a hang-up count
		switch n, err := c.tryRead(p); {
		case err != nil:
			return 0, c.opError("read", err)
		case done(c.readBy.wait()):
			return n, c.readTimeout(n)
		case n > 0 || len(p) == 0:
			return n, nil
		case hungUp:
			return 0, io.EOF
		}
		select {
		case <-c.readable:
		case <-c.readBy.wait():
		case <-c.hungUp:
		case <-c.failed:
		case <-c.closing:
		}
	}
}

func (c *Conn) readTimeout(n int) error {
	if n > 0 {
		return nil
	}
	return c.opError("read", os.ErrDeadlineExceeded)
}

func (c *Conn) tryRead(p []byte) (int, error) {
	c.rxMu.Lock()
	defer c.rxMu.Unlock()
	if c.closed || done(c.closing) {
		return 0, net.ErrClosed
	}
	if done(c.readBy.wait()) || len(p) == 0 {
		return 0, nil
	}
	n, err := c.rx.Peek(p)
	if err != nil || n == 0 {
		return 0, errors.Join(err, c.brokenUnlessHungUp())
	}
	c.rx.Consume(n)
	c.received.Add(int64(n))
	if left, err := c.rx.Len(); err == nil && left > 0 {
		wake(c.readable) // for another reader
	}
	if err := c.event.Notify(); err != nil {
		c.fail(err) // for the next Read: these bytes have left the ring
	}
	return n, nil
}

// brokenUnlessHungUp is the failure that ended the event goroutine.
func (c *Conn) brokenUnlessHungUp() error {
	if done(c.failed) && !done(c.hungUp) {
		return c.failure
	}
	return nil
}

// HangUp says that the other half has closed: Read returns what is still in the
// ring and then [io.EOF], Write fails with [ErrHungUp].
func (c *Conn) HangUp() { c.hupOnce.Do(func() { close(c.hungUp) }) }

// Failed is closed when the Conn can no longer be used, because the other half
// broke the protocol or the event channel failed; Err says why.
func (c *Conn) Failed() <-chan struct{} { return c.failed }

// Err is why the Conn failed, nil while it has not.
func (c *Conn) Err() error {
	if done(c.failed) {
		return c.failure
	}
	return nil
}

// Close lets go of the ring and the event channel. What is in the ring stays
// there, for whoever attaches next.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		close(c.closing)
		err := c.event.Close()
		c.workers.Wait()
		c.rxMu.Lock()
		c.txMu.Lock()
		c.closed = true
		c.txMu.Unlock()
		c.rxMu.Unlock()
		c.closeErr = errors.Join(err, c.pages.Close())
	})
	return c.closeErr
}

func (c *Conn) fail(err error) {
	c.failOnce.Do(func() {
		c.failure = err
		close(c.failed)
		if f := c.onFail.Load(); f != nil {
			(*f)()
		}
	})
}

func (c *Conn) opError(op string, err error) error {
	if errors.Is(err, os.ErrClosed) {
		err = net.ErrClosed
	}
	return &net.OpError{Op: op, Net: "xen-console", Addr: c.LocalAddr(), Err: err}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

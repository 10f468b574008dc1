package console_test

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/ring"
	"github.com/xenchan/xenchan/spool"
	"github.com/xenchan/xenchan/xen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// heapPage is a ring's page in plain memory, where the race detector sees it.
type heapPage struct {
	data   []byte
	closed atomic.Int32
}

func newHeapPage() *heapPage { return &heapPage{data: make([]byte, ring.PageSize)} }

func (p *heapPage) Bytes() []byte { return p.data }
func (p *heapPage) Close() error  { p.closed.Add(1); return nil }

// mapping is one more mapping of the page.
func (p *heapPage) mapping() *heapPage { return &heapPage{data: p.data} }

// Indices of the page, by their places in io/console.h.
const (
	inCons  = 3072
	inProd  = 3076
	outCons = 3080
	outProd = 3084
)

func (p *heapPage) index(at int) uint32 { return binary.NativeEndian.Uint32(p.data[at:]) }
func (p *heapPage) set(at int, v uint32) {
	binary.NativeEndian.PutUint32(p.data[at:], v)
}

// fakeEvent is one end of an event channel made of Go channels.
type fakeEvent struct {
	port             xen.Port
	pending          chan struct{} // capacity 1
	closed           chan struct{}
	broken           chan error // what a turn gets instead of an event
	once             sync.Once
	turns            sync.WaitGroup
	peer             atomic.Pointer[fakeEvent]
	notified, waited atomic.Int64
}

func newFakeEvent(port xen.Port) *fakeEvent {
	return &fakeEvent{port: port, pending: make(chan struct{}, 1), closed: make(chan struct{}), broken: make(chan error, 1)}
}

// fakeEvents is both ends, the second one bound and so pending.
func fakeEvents() (front, back *fakeEvent) {
	front, back = newFakeEvent(7), newFakeEvent(8)
	front.peer.Store(back)
	back.peer.Store(front)
	back.pending <- struct{}{}
	return front, back
}

// rebind is a new second end after the old one was closed.
func (e *fakeEvent) rebind() *fakeEvent {
	back := newFakeEvent(9)
	back.peer.Store(e)
	back.pending <- struct{}{}
	e.peer.Store(back)
	return back
}

func (e *fakeEvent) Port() xen.Port { return e.port }

func (e *fakeEvent) Notify() error {
	select {
	case <-e.closed:
		return os.ErrClosed
	default:
	}
	e.notified.Add(1)
	select {
	case e.peer.Load().pending <- struct{}{}:
	default:
	}
	return nil
}

func (e *fakeEvent) Serve(turn xen.Turn) {
	e.turns.Go(func() {
		for {
			err := e.wait()
			if errors.Is(err, os.ErrClosed) {
				return
			}
			rest := turn(err)
			for rest > 0 {
				time.Sleep(rest)
				rest = turn(nil)
			}
			if rest < 0 || err != nil {
				return
			}
		}
	})
}

func (e *fakeEvent) wait() error {
	e.waited.Add(1)
	select {
	case <-e.closed:
		return os.ErrClosed
	default:
	}
	select {
	case <-e.pending:
		return nil
	case err := <-e.broken:
		return err
	case <-e.closed:
		return os.ErrClosed
	}
}

func (e *fakeEvent) Unmask() error { return nil }

func (e *fakeEvent) Close() error {
	e.once.Do(func() { close(e.closed) })
	e.turns.Wait()
	return nil
}

// fakes is a page with both ends of its event channel, nothing attached.
type fakes struct {
	page        *heapPage
	front, back *fakeEvent
}

func newFakes() fakes {
	f := fakes{page: newHeapPage()}
	f.front, f.back = fakeEvents()
	return f
}

func (f fakes) attachFront(t testing.TB) *console.Conn {
	t.Helper()
	c, err := console.AttachFrontend(f.page.mapping(), f.front)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (f fakes) attachBack(t testing.TB, sink console.Sink) *console.Conn {
	t.Helper()
	c, err := console.AttachBackend(f.page.mapping(), f.back, sink, nil, spool.RingID{Ref: 1, Port: 7})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// memory is a sink that takes everything, or up to room bytes when that is not
// negative.
type memory struct {
	mu     sync.Mutex
	data   []byte
	room   int // guarded by mu
	more   chan struct{}
	came   chan struct{} // capacity 1: something was appended
	before func(taken int)
}

func newMemory(room int) *memory {
	return &memory{room: room, more: make(chan struct{}, 1), came: make(chan struct{}, 1)}
}

func (m *memory) Attach(spool.RingID, uint32, int) int { return 0 }
func (m *memory) Settle()                              {}
func (m *memory) Flush()                               {}

func (m *memory) Append(p []byte, _ uint32) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.before != nil {
		m.before(len(m.data))
	}
	if m.room >= 0 {
		p = p[:min(len(p), m.room)]
		m.room -= len(p)
	}
	m.data = append(m.data, p...)
	select {
	case m.came <- struct{}{}:
	default:
	}
	return len(p)
}

func (m *memory) Room() <-chan struct{} { return m.more }

func (m *memory) allow(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.room += n
	select {
	case m.more <- struct{}{}:
	default:
	}
}

func (m *memory) bytes() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]byte(nil), m.data...)
}

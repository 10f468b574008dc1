package storeserver

import (
	"sync"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// batchBytes is about how much goes into one write to a stream.
const batchBytes = 16 << 10

// queue is what waits to be sent to one client.
type queue struct {
	limit int // most bytes of messages

	mu      sync.Mutex
	changed sync.Cond // on mu: anything below changed
	pending []output
	waiting map[string]bool // payloads of the events in pending
	bytes   int             // in pending
	replies int             // in pending or being written
	closed  bool
}

// output is one message to send.
type output struct {
	msg    wire.Message
	charge *budget // who pays while an event is not delivered; may be nil
}

func newQueue(limit int) *queue {
	q := &queue{limit: limit, waiting: make(map[string]bool)}
	q.changed.L = &q.mu
	return q
}

// push adds a message. An event that already waits with the same path and token
// is dropped, as it would say nothing new; that does not hold for the special
// nodes, whose events are counted by some. It reports false when the client has
// left so much unread that the limit is reached.
func (q *queue) push(m wire.Message, charge *budget) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return true
	}
	event := m.Type == wire.WatchEvent
	if event && m.Payload[0] != '@' {
		if q.waiting[string(m.Payload)] {
			return true
		}
		q.waiting[string(m.Payload)] = true
	}
	size := wire.HeaderSize + len(m.Payload)
	if event && q.bytes+size > q.limit {
		return false
	}
	if !event {
		q.replies++
	}
	charge.add(1)
	q.bytes += size
	q.pending = append(q.pending, output{m, charge})
	q.changed.Broadcast()
	return true
}

// take waits for messages and returns some of them encoded, and how to settle
// them once they are written. It reports false when the queue is closed.
func (q *queue) take() (b []byte, sent func(), ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.pending) == 0 && !q.closed {
		q.changed.Wait()
	}
	if q.closed {
		return nil, nil, false
	}
	n, replies := 0, 0
	for n < len(q.pending) && len(b) < batchBytes {
		m := q.pending[n].msg
		b = wire.Append(b, m)
		if m.Type == wire.WatchEvent {
			delete(q.waiting, string(m.Payload))
		} else {
			replies++
		}
		n++
	}
	batch := q.pending[:n:n]
	q.pending = q.pending[n:]
	q.bytes -= len(b)
	return b, func() {
		settle(batch)
		q.mu.Lock()
		defer q.mu.Unlock()
		q.replies -= replies
		q.changed.Broadcast()
	}, true
}

// settle ends the charges for messages that were sent or will never be.
func settle(batch []output) {
	for _, o := range batch {
		o.charge.add(-1)
	}
}

// waitRoom blocks while n replies or more wait for the client to read them. It
// reports false when the queue is closed.
func (q *queue) waitRoom(n int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.replies >= n && !q.closed {
		q.changed.Wait()
	}
	return !q.closed
}

// isClosed reports whether close was called.
func (q *queue) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// close drops what waits and wakes everybody. It reports false when the queue
// was closed before.
func (q *queue) close() bool {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return false
	}
	q.closed = true
	batch := q.pending
	q.pending, q.waiting, q.bytes = nil, nil, 0
	q.changed.Broadcast()
	q.mu.Unlock()
	settle(batch)
	return true
}

// budget counts the events that one unprivileged connection has caused and that
// others have not read yet. While it is used up the connection's requests are
// not read, so that a guest cannot fill the queues of those who watch it. A nil
// budget is without limit.
type budget struct {
	limit int

	mu    sync.Mutex
	used  int
	below chan struct{} // closed and renewed when used falls below the limit
}

func newBudget(limit int) *budget { return &budget{limit: limit, below: make(chan struct{})} }

func (b *budget) add(n int) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.used
	b.used += n
	if was >= b.limit && b.used < b.limit {
		close(b.below)
		b.below = make(chan struct{})
	}
}

// free is nil when there is room, else a channel that is closed when there is.
func (b *budget) free() <-chan struct{} {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used < b.limit {
		return nil
	}
	return b.below
}

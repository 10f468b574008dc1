package xenstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/xenchan/xenchan/xenstore/wire"
)

const (
	// maxReply is the largest reply payload accepted, in bytes. The protocol
	// says 4096, but oxenstored sends a huge directory in one reply.
	maxReply = 16 << 20
	// maxDevicePayload is the largest request on the xenbus device, whose
	// driver has one page for header and payload.
	maxDevicePayload = wire.MaxPayload - wire.HeaderSize
	// batchSize is how many bytes of waiting requests go into one write.
	batchSize = 32 << 10
	readSize  = 16 << 10
)

// conn is a connection: it matches replies to requests and hands events to
// watches. Its reader and writer goroutines are started by newConn, stopped by
// fail and joined by Store.Close. There is a writer so that a request can be given up
// while the daemon does not read.
type conn struct {
	stream io.ReadWriteCloser
	device bool // the xenbus device: see NewDevice
	wg     sync.WaitGroup
	wake   chan struct{} // capacity 1: the writer should look at the queue
	done   chan struct{} // closed when err is set

	mu        sync.Mutex
	err       error               // why the connection is over, nil while it is not
	lastID    uint32              // of a request
	pending   map[uint32]*request // waiting to be sent or answered
	queue     []*request          // waiting to be sent, in order
	busy      *request            // device only: sent and not answered
	lastToken uint64
	watches   map[string]watcher // by token
}

// request is one request under way. All but reply belongs to conn.mu.
type request struct {
	msg       wire.Message
	sent      bool
	abandoned bool
	reply     chan result // capacity 1, so that nobody needs to wait for it
}

// result is the answer to a request; err is a bare errno if the request was
// refused, and else what broke the connection.
type result struct {
	payload []byte
	err     error
}

func newConn(stream io.ReadWriteCloser, device bool) *conn {
	c := &conn{
		stream:  stream,
		device:  device,
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		pending: make(map[uint32]*request),
		watches: make(map[string]watcher),
	}
	c.wg.Go(c.readLoop)
	c.wg.Go(c.writeLoop)
	return c
}

// call sends a request and returns the payload of its reply. path is for errors.
func (c *conn) call(ctx context.Context, op wire.Type, tx uint32, path string, payload []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, opError(op, path, err)
	}
	r, err := c.submit(op, tx, payload)
	if err != nil {
		return nil, opError(op, path, err)
	}
	return c.await(ctx, r, path)
}

// await waits for the reply to a request and returns its payload.
func (c *conn) await(ctx context.Context, r *request, path string) ([]byte, error) {
	var res result
	select {
	case res = <-r.reply:
	case <-ctx.Done():
		res = c.abandon(r, ctx.Err())
	}
	if res.err != nil {
		return nil, opError(r.msg.Type, path, res.err)
	}
	return res.payload, nil
}

// post sends a request whose answer does not matter.
func (c *conn) post(op wire.Type, tx uint32, payload []byte) {
	// It fails only when the connection is over, and the request with it.
	_, _ = c.submit(op, tx, payload)
}

// submit queues a request.
func (c *conn) submit(op wire.Type, tx uint32, payload []byte) (*request, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	for c.lastID++; c.lastID == 0 || c.pending[c.lastID] != nil; c.lastID++ {
	}
	r := &request{
		msg:   wire.Message{Type: op, ReqID: c.lastID, TxID: tx, Payload: payload},
		reply: make(chan result, 1),
	}
	c.pending[r.msg.ReqID] = r
	c.queue = append(c.queue, r)
	c.wakeWriter()
	return r, nil
}

func (c *conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// abandon gives a request up because of err, unless its result is there already.
// A request that has been sent stays in pending, so that its late reply is known.
func (c *conn) abandon(r *request, err error) result {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case res := <-r.reply:
		return res
	default:
	}
	r.abandoned = true
	if !r.sent {
		delete(c.pending, r.msg.ReqID)
	}
	return result{err: err}
}

func (c *conn) writeLoop() {
	var buf []byte
	for {
		select {
		case <-c.done:
			return
		case <-c.wake:
		}
		for {
			var last *request
			if buf, last = c.nextBatch(buf[:0]); last == nil {
				break
			}
			if _, err := c.stream.Write(buf); err != nil {
				c.writeFailed(last, err)
			}
		}
	}
}

// nextBatch appends the requests to send now, and returns the last of them.
func (c *conn) nextBatch(buf []byte) (_ []byte, last *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 && len(buf) < batchSize && c.busy == nil {
		r := c.queue[0]
		c.queue[0] = nil
		c.queue = c.queue[1:]
		if r.abandoned {
			continue
		}
		r.sent = true
		buf, last = wire.Append(buf, r.msg), r
		if c.device {
			c.busy = r
		}
	}
	return buf, last
}

// writeFailed deals with an error of Write. The xenbus device refuses a request
// that way and stays usable; a socket does not.
func (c *conn) writeFailed(r *request, err error) {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !c.device || !ok {
		c.fail(fmt.Errorf("connection lost: %w", err))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[r.msg.ReqID] == r {
		c.finish(r, result{err: errno})
	}
}

// finish ends a pending request that was sent. c.mu is held.
func (c *conn) finish(r *request, res result) {
	delete(c.pending, r.msg.ReqID)
	r.reply <- res
	if c.busy == r {
		c.busy = nil
		c.wakeWriter()
	}
}

func (c *conn) readLoop() {
	d := wire.Decoder{Max: maxReply}
	buf := make([]byte, readSize)
	for {
		n, err := c.stream.Read(buf)
		d.Feed(buf[:n])
		for {
			m, ok, derr := d.Next()
			if derr == nil && ok {
				derr = c.dispatch(m)
			}
			if derr != nil {
				c.fail(fmt.Errorf("connection broken: %w", derr))
				return
			}
			if !ok {
				break
			}
		}
		if err != nil {
			if err == io.EOF && d.Buffered() > 0 {
				err = io.ErrUnexpectedEOF
			}
			c.fail(fmt.Errorf("connection lost: %w", err))
			return
		}
	}
}

// dispatch gives a message to whom it is for. An error of it means that the
// stream cannot be trusted any further.
func (c *conn) dispatch(m wire.Message) error {
	if m.Type == wire.WatchEvent {
		return c.event(m.Payload)
	}
	r, err := c.reply(m)
	if err != nil || r == nil {
		return err
	}
	// Nobody is left who would end this transaction.
	if tx, err := parseTxID(m.Payload); err == nil {
		c.post(wire.TransactionEnd, tx, wire.JoinNUL("F"))
	}
	return nil
}

// reply finishes the request that m answers. It returns the request if it began
// a transaction and has been abandoned.
func (c *conn) reply(m wire.Message) (*request, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := m.ReqID
	if b := c.busy; id == 0 && b != nil && (b.msg.Type == wire.Watch || b.msg.Type == wire.Unwatch) {
		id = b.msg.ReqID // a kernel before 4.11 made this reply up
	}
	r := c.pending[id]
	switch {
	case c.err != nil:
		return nil, nil
	case r == nil || !r.sent:
		return nil, fmt.Errorf("%v reply to request %d, which was never made", m.Type, id)
	case m.Type == wire.Error:
		name := strings.TrimSuffix(string(m.Payload), "\x00")
		c.finish(r, result{err: wire.ErrnoOf(name)})
	case m.Type == r.msg.Type:
		c.finish(r, result{payload: m.Payload})
		if r.abandoned && m.Type == wire.TransactionStart {
			return r, nil
		}
	default:
		return nil, fmt.Errorf("%v reply to a %v request", m.Type, r.msg.Type)
	}
	return nil, nil
}

// event hands a watch event on. The ids in its header mean nothing.
func (c *conn) event(payload []byte) error {
	if len(payload) > wire.MaxPayload {
		return &wire.SizeError{Type: wire.WatchEvent, Len: uint32(len(payload)), Max: wire.MaxPayload}
	}
	parts, ok := wire.SplitNUL(payload)
	if !ok || len(parts) < 2 {
		return fmt.Errorf("malformed watch event %q", payload)
	}
	c.mu.Lock()
	w := c.watches[parts[1]]
	c.mu.Unlock()
	if w != nil { // else it was on its way when the watch was closed
		w.changed(parts[0])
	}
	return nil
}

// watcher is told of the events that bear its token, and at last why there are no more.
type watcher interface {
	changed(path string)
	end(err error) bool
}

// addWatch makes a watcher with a token of its own.
func addWatch[W watcher](c *conn, with func(token string) W) (w W, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return w, c.err
	}
	c.lastToken++
	token := "w" + strconv.FormatUint(c.lastToken, 10)
	w = with(token)
	c.watches[token] = w
	return w, nil
}

func (c *conn) removeWatch(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.watches, token)
}

// fail ends the connection because of err; only the first call does anything.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	close(c.done)
	for _, r := range c.pending {
		r.reply <- result{err: err}
	}
	watches := c.watches
	c.pending, c.queue, c.busy, c.watches = nil, nil, nil, nil
	c.mu.Unlock()

	for _, w := range watches {
		w.end(err)
	}
	// Nothing that was written can be lost here that a reply has confirmed.
	_ = c.stream.Close()
}

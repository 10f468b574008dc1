package storeserver

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/xenchan/xenchan/xenstore/wire"
)

const (
	// stallTime is how long an unprivileged client may leave its output
	// untouched, and how long events that it caused may hold up its requests
	// (C xenstored: timeout watch-event).
	stallTime = 20 * time.Second

	// privilegedOutput is how many bytes of events may wait for a privileged
	// client. It is far above what equal events make together; a client
	// that lets it fill up has stopped reading for good.
	privilegedOutput = 64 << 20
)

// conn is one client.
type conn struct {
	srv    *Server
	stream io.ReadWriteCloser
	dom    *domain
	home   string // what relative paths begin with
	out    *queue
	caused *budget       // events not delivered yet; nil for the privileged
	gone   chan struct{} // closed by drop

	// Guarded by Server.mu.
	watches map[watchKey]*watch
	txs     map[uint32]*tx
	lastTx  uint32
}

func newConn(s *Server, stream io.ReadWriteCloser, dom *domain) *conn {
	c := &conn{
		srv: s, stream: stream, dom: dom, home: homeOf(dom.id), gone: make(chan struct{}),
		watches: make(map[watchKey]*watch), txs: make(map[uint32]*tx),
	}
	if dom.privileged() {
		c.out = newQueue(privilegedOutput)
	} else {
		c.out = newQueue(s.quota.Memory)
		c.caused = newBudget(s.quota.Outstanding)
	}
	return c
}

// drop ends the connection: both loops return. It does not wait for them.
func (c *conn) drop() {
	if c.out.close() {
		close(c.gone)
		c.stream.Close()
	}
}

// read handles requests until the stream ends or misbehaves. Not to read on is
// what holds back a client that does not fetch its replies.
func (c *conn) read() error {
	var dec wire.Decoder
	buf := make([]byte, 4096)
	for {
		m, ok, err := dec.Next()
		if err != nil {
			return err
		}
		if ok {
			c.srv.handle(c, m)
			if !c.out.waitRoom(c.srv.quota.Outstanding) || !c.waitDelivery() {
				return ErrClosed
			}
			continue
		}
		n, err := c.stream.Read(buf)
		dec.Feed(buf[:n])
		switch {
		case err == nil || n > 0:
		case errors.Is(err, io.EOF) && dec.Buffered() > 0:
			return fmt.Errorf("xenstore client left in the middle of a message: %w", io.ErrUnexpectedEOF)
		default:
			return err
		}
	}
}

// waitDelivery waits until enough of the events that this connection caused
// have been read by their watchers, or have had their time. It reports false
// when the connection is gone.
func (c *conn) waitDelivery() bool {
	free := c.caused.free()
	if free == nil {
		return true
	}
	timer := time.NewTimer(stallTime)
	defer timer.Stop()
	select {
	case <-free:
	case <-timer.C:
	case <-c.gone:
		return false
	}
	return true
}

// write sends what is queued until the connection is dropped.
func (c *conn) write() {
	defer c.drop()
	for {
		b, sent, ok := c.out.take()
		if !ok {
			return
		}
		err := c.send(b)
		sent()
		if err != nil {
			return
		}
	}
}

// send writes to the stream. An unprivileged client that does not read for a
// long time loses its connection.
func (c *conn) send(b []byte) error {
	if !c.dom.privileged() {
		stalled := time.AfterFunc(stallTime, func() {
			c.srv.log.Warn("xenstore client does not read, connection closed", "domain", c.dom.id)
			c.drop()
		})
		defer stalled.Stop()
	}
	_, err := c.stream.Write(b)
	return err
}

// reply queues the answer to a request.
func (c *conn) reply(to wire.Message, typ wire.Type, payload []byte) {
	c.out.push(wire.Message{Type: typ, ReqID: to.ReqID, TxID: to.TxID, Payload: payload}, nil)
}

// event queues a watch event. One that is too large for a message is dropped, as
// in C. Too many unread ones end the connection: a client that lost events
// without knowing would be worse off.
func (c *conn) event(cause *conn, path, token string) {
	payload := wire.JoinNUL(path, token)
	if len(payload) > wire.MaxPayload {
		return
	}
	var charge *budget
	if cause != nil && cause != c {
		charge = cause.caused
	}
	if !c.out.push(wire.Message{Type: wire.WatchEvent, Payload: payload}, charge) {
		c.srv.log.Warn("xenstore client leaves too many events unread, connection closed", "domain", c.dom.id)
		c.drop()
	}
}

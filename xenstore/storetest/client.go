package storetest

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// patience is how long a reply may take before the test fails: on real Xen a guest may
// not have the processor for many seconds.
const patience = 4 * time.Minute

// client is a requester that checks exact replies. It is for one goroutine.
type client struct {
	t       *testing.T
	name    string
	stream  io.ReadWriteCloser
	in      chan wire.Message // closed when the stream ends
	nextID  uint32
	window  int      // requests that many has under way
	events  []string // payloads not yet asked for
	arrived []string // what the last do saw: "event PAYLOAD" and "reply", in order
}

func newClient(t *testing.T, stream io.ReadWriteCloser, name string) *client {
	c := &client{t: t, name: name, stream: stream, in: make(chan wire.Message, 4096), nextID: 1, window: 8}
	done := make(chan struct{})
	go func() { // stopped by closing the stream, joined by the cleanup
		defer close(done)
		defer close(c.in)
		var dec wire.Decoder
		dec.Max = 1 << 24 // oxenstored sends large directories whole
		buf := make([]byte, 4096)
		for {
			m, ok, err := dec.Next()
			if err != nil {
				return
			}
			if ok {
				c.in <- m
				continue
			}
			n, err := stream.Read(buf)
			dec.Feed(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		stream.Close()
		for range c.in {
		}
		<-done
	})
	return c
}

// send writes one request and returns its id.
func (c *client) send(typ wire.Type, tx uint32, payload string) uint32 {
	c.t.Helper()
	id := c.nextID
	c.nextID++
	b := wire.Append(nil, wire.Message{Type: typ, ReqID: id, TxID: tx, Payload: []byte(payload)})
	if _, err := c.stream.Write(b); err != nil {
		c.t.Fatalf("%s: write of %v: %v", c.name, typ, err)
	}
	return id
}

// receive is the next message; false when the daemon has closed the connection.
func (c *client) receive() (wire.Message, bool) {
	c.t.Helper()
	select {
	case m, ok := <-c.in:
		return m, ok
	case <-time.After(patience):
		c.t.Fatalf("%s: no message within %v", c.name, patience)
		return wire.Message{}, false
	}
}

// do makes a request and returns the reply's payload, or the error as fails
// writes it. Events that come before it are kept.
func (c *client) do(typ wire.Type, tx uint32, payload string) string {
	c.t.Helper()
	return c.reply(c.send(typ, tx, payload), typ, tx, payload)
}

// many makes requests, c.window of which are under way at once, and returns the
// replies.
func (c *client) many(typ wire.Type, tx uint32, payloads []string) []string {
	c.t.Helper()
	first, sent := c.nextID, 0
	replies := make([]string, len(payloads))
	for i, p := range payloads {
		for ; sent < min(i+c.window, len(payloads)); sent++ {
			c.send(typ, tx, payloads[sent])
		}
		replies[i] = c.reply(first+uint32(i), typ, tx, p)
	}
	return replies
}

// reply waits for the reply to a request.
func (c *client) reply(id uint32, typ wire.Type, tx uint32, payload string) string {
	c.t.Helper()
	c.arrived = nil
	for {
		m, ok := c.receive()
		if !ok {
			c.t.Fatalf("%s: connection closed on %v %q", c.name, typ, payload)
		}
		if m.Type == wire.WatchEvent {
			if m.ReqID != 0 || m.TxID != 0 {
				c.t.Errorf("%s: an event has req_id %d and tx_id %d, want 0 and 0", c.name, m.ReqID, m.TxID)
			}
			c.events = append(c.events, string(m.Payload))
			c.arrived = append(c.arrived, "event "+string(m.Payload))
			continue
		}
		c.arrived = append(c.arrived, "reply")
		if m.ReqID != id || m.TxID != tx {
			c.t.Fatalf("%s: reply to %v has req_id %d, tx_id %d; want %d, %d", c.name, typ, m.ReqID, m.TxID, id, tx)
		}
		switch m.Type {
		case typ:
			return string(m.Payload)
		case wire.Error:
			return "error " + string(m.Payload)
		}
		c.t.Fatalf("%s: reply to %v is a %v", c.name, typ, m.Type)
	}
}

// fails is the expectation of an error.
func fails(errno string) string { return "error " + errno + "\x00" }

// want makes a request outside a transaction and checks the reply.
func (c *client) want(want string, typ wire.Type, payload string) {
	c.t.Helper()
	c.wantTx(0, want, typ, payload)
}

// wantTx is want inside a transaction.
func (c *client) wantTx(tx uint32, want string, typ wire.Type, payload string) {
	c.t.Helper()
	if got := c.do(typ, tx, payload); got != want {
		c.t.Errorf("%s: %v %s = %s, want %s", c.name, typ, abbreviate(payload), abbreviate(got), abbreviate(want))
	}
}

// ok makes a request that must be answered OK.
func (c *client) ok(typ wire.Type, payload string) {
	c.t.Helper()
	c.want("OK\x00", typ, payload)
}

// okTx is ok inside a transaction.
func (c *client) okTx(tx uint32, typ wire.Type, payload string) {
	c.t.Helper()
	c.wantTx(tx, "OK\x00", typ, payload)
}

// start begins a transaction.
func (c *client) start() uint32 {
	c.t.Helper()
	got := c.do(wire.TransactionStart, 0, "\x00")
	id, err := strconv.ParseUint(strings.TrimSuffix(got, "\x00"), 10, 32)
	if err != nil || id == 0 || !strings.HasSuffix(got, "\x00") {
		c.t.Fatalf("%s: TRANSACTION_START = %q, want a decimal number with a NUL", c.name, got)
	}
	return uint32(id)
}

// sync collects all events that were sent because of requests answered so far,
// also other connections' requests: replies and events keep their order.
func (c *client) sync() []string {
	c.t.Helper()
	c.do(wire.GetDomainPath, 0, "0\x00")
	events := c.events
	c.events = nil
	return events
}

// wantEvents checks the events since the last time, in their order. Each is
// PATH=TOKEN.
func (c *client) wantEvents(want ...string) {
	c.t.Helper()
	got := decodeEvents(c.sync())
	if !slices.Equal(got, want) {
		c.t.Errorf("%s: events %q, want %q", c.name, got, want)
	}
}

// wantEventSet is wantEvents in any order.
func (c *client) wantEventSet(want ...string) {
	c.t.Helper()
	got := decodeEvents(c.sync())
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		c.t.Errorf("%s: events %q, want in any order %q", c.name, got, want)
	}
}

// decodeEvents turns payloads into PATH=TOKEN.
func decodeEvents(payloads []string) []string {
	var out []string
	for _, p := range payloads {
		parts, whole := wire.SplitNUL([]byte(p))
		if !whole || len(parts) != 2 {
			out = append(out, fmt.Sprintf("malformed %q", p))
			continue
		}
		out = append(out, parts[0]+"="+parts[1])
	}
	return out
}

// abbreviate quotes a payload for a message.
func abbreviate(payload string) string {
	if len(payload) > 100 {
		return fmt.Sprintf("%q… (%d bytes)", payload[:60], len(payload))
	}
	return strconv.Quote(payload)
}

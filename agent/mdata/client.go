package mdata

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Silence is how long a host may be silent before it is asked again.
const Silence = 5 * time.Second

// firstSilence is that for the first time; each further time doubles it.
const firstSilence = 500 * time.Millisecond

// errSilent is a question without an answer.
var errSilent = errors.New("the host does not answer")

// FailureError is what a host says when it does not do what it was asked.
type FailureError struct{ Reason string } // the host's text

func (e *FailureError) Error() string {
	if e.Reason == "" {
		return "the host refuses"
	}
	return "the host refuses: " + e.Reason
}

// Client asks a host. A question is asked again until it is answered, or its context
// ends; so the host may be restarted meanwhile, or come later. Its methods may be
// called concurrently; one question is under way at a time.
type Client struct {
	conn   io.ReadWriter
	out    chan string
	lines  chan []byte
	failed chan error    // the connection's end; holds one
	done   chan struct{} // closed by Close
	heard  atomic.Int64  // when something came last, in ns

	mu    sync.Mutex
	ready bool // both ends are in step; guarded by mu
}

// NewClient makes a client. Its two goroutines end when conn does, which its caller
// closes after the client.
func NewClient(conn io.ReadWriter) *Client {
	c := &Client{conn: conn, out: make(chan string), lines: make(chan []byte), failed: make(chan error, 1), done: make(chan struct{})}
	go c.read()
	go c.write()
	return c
}

// Close makes the client of no use. It does not close the connection.
func (c *Client) Close() { close(c.done) }

// write writes beside whoever asks, who reads meanwhile: a host that talks without
// end must not keep both ends from ever reading.
func (c *Client) write() {
	for {
		select {
		case line := <-c.out:
			if _, err := io.WriteString(c.conn, line); err != nil {
				c.fail(err)
				return
			}
		case <-c.done:
			return
		}
	}
}

func (c *Client) fail(err error) {
	select {
	case c.failed <- err:
	default:
	}
}

func (c *Client) read() {
	r := bufio.NewReaderSize(heardReader{c.conn, &c.heard}, 4<<10)
	for {
		line, err := readLine(r, nil, maxAnswer)
		if errors.Is(err, errTooLong) {
			continue
		}
		if err != nil {
			c.fail(err)
			return
		}
		select {
		case c.lines <- line:
		case <-c.done:
			return
		}
	}
}

// heardReader takes down when something was read last.
type heardReader struct {
	io.Reader
	at *atomic.Int64
}

func (r heardReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.at.Store(time.Now().UnixNano())
	return n, err
}

// Get is the value of a key, if the host has one for this guest. An error is the
// context's, the connection's, or a [*FailureError].
func (c *Client) Get(ctx context.Context, key string) (value []byte, found bool, err error) {
	a, err := c.ask(ctx, wordGet, []byte(key))
	return a.payload, err == nil && a.word == wordSuccess, err
}

// Keys are the names of what the host has.
func (c *Client) Keys(ctx context.Context) ([]string, error) {
	a, err := c.ask(ctx, wordKeys, nil)
	if err != nil || len(a.payload) == 0 {
		return nil, err
	}
	return strings.Split(string(a.payload), "\n"), nil
}

// Put tells the host a value.
func (c *Client) Put(ctx context.Context, key string, value []byte) error {
	_, err := c.ask(ctx, wordPut, encodePut(key, value))
	return err
}

// Delete tells the host to forget a value.
func (c *Client) Delete(ctx context.Context, key string) error {
	_, err := c.ask(ctx, wordDelete, []byte(key))
	return err
}

// ask asks until it is answered. It is one question however often it is asked, with one
// id: an answer that comes late is an answer, and of what is given once the only one.
func (c *Client) ask(ctx context.Context, word string, payload []byte) (frame, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := frame{fmt.Sprintf("%08x", rand.Uint32()), word, payload}
	for limit := firstSilence; ; limit = min(2*limit, Silence) {
		a, err := c.askOnce(ctx, q, limit)
		switch {
		case errors.Is(err, errSilent):
			c.ready = false
		case err != nil:
			return a, err
		case a.word == wordFailure:
			return a, &FailureError{string(a.payload)}
		default:
			return a, nil
		}
	}
}

func (c *Client) askOnce(ctx context.Context, q frame, limit time.Duration) (a frame, err error) {
	answered := false
	send := func(line, until string) error {
		return c.exchange(ctx, line, limit, func(got []byte, sent bool) bool {
			f, err := parse(got)
			if err != nil || f.id != q.id {
				return sent && until != "" && string(got) == until
			}
			answered = f.word == wordSuccess || f.word == wordNotFound || f.word == wordFailure
			a = f
			return answered
		})
	}
	if !c.ready {
		if err := send("\n", lineInvalid); err != nil || answered {
			return a, err
		}
		if err := send(lineNegotiate+"\n", lineV2); err != nil || answered {
			return a, err
		}
		c.ready = true
	}
	err = send(string(q.appendTo(nil)), "")
	return a, err
}

// exchange sends a line and passes over what comes until it is the answer, or
// nothing has come for a while. answers is told whether the line was sent before.
func (c *Client) exchange(ctx context.Context, line string, limit time.Duration, answers func(got []byte, sent bool) bool) error {
	out := c.out
	c.heard.Store(time.Now().UnixNano())
	for {
		left := limit - time.Since(time.Unix(0, c.heard.Load()))
		if left <= 0 {
			return errSilent
		}
		select {
		case out <- line:
			out = nil
		case got := <-c.lines:
			if answers(got, out == nil) {
				return nil
			}
		case <-time.After(left):
		case err := <-c.failed:
			c.fail(err) // also for the next question
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

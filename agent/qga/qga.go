// Package qga speaks with the QEMU guest agent over a channel: one JSON object a
// line each way, over a stream that other clients have used before and will use
// again. The agent answers one command after the other and forgets nothing, so
// that an answer which comes too late is there when somebody else reads next.
//
// So a [Client] never trusts what it finds. It begins with a byte that resets the
// agent's parser (0xFF) and guest-sync-delimited with a number of its own, and
// throws away all that comes before the answer to that; and it does so again
// after every call that did not end with an answer. What comes from the guest is
// bounded, and each call has a deadline.
//
// Protocol: "QEMU Guest Agent Protocol Reference" (qga/qapi-schema.json).
package qga

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"
)

const (
	// DefaultTimeout is how long an agent has for one answer.
	DefaultTimeout = 10 * time.Second
	// MaxReply is the longest line in bytes that is read from a guest. The
	// longest that an agent has a reason to send is the output of a command,
	// of which it keeps 16 MiB for each stream, in base64.
	MaxReply = 48 << 20

	sentinel = 0xFF
	// firstRetry is how soon a sync is sent again: a request that came before
	// the agent opened its terminal is lost. Each time doubles it.
	firstRetry = 250 * time.Millisecond
	// refusal is how long a command that has no answer may take to be refused.
	refusal = 2 * time.Second
)

// Errors that a caller can tell apart.
var (
	// ErrNoAnswer is a call whose time is over: no agent runs, or it is busy.
	ErrNoAnswer = errors.New("the guest agent does not answer")
	// ErrGone is the end of the stream, which may be that of the guest. Whether it has
	// done what it was asked last, nobody knows.
	ErrGone = errors.New("the channel of the guest agent has ended")
	// ErrNotCommand is a text that no agent would understand.
	ErrNotCommand = errors.New(`a command is one JSON object as {"execute":"guest-ping"}`)
	// ErrTooLong is a line of more than [MaxReply] bytes.
	ErrTooLong = fmt.Errorf("the guest sent a line of more than %d bytes", MaxReply)
)

// Error is a command that the agent has refused. The text is the guest's.
type Error struct {
	Class string `json:"class"` // CommandNotFound, GenericError, …
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return "the guest agent refuses: " + e.Desc }

// Conn is the host end of the agent's channel.
type Conn interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// Client is one client of an agent. Its methods may be called concurrently; the
// agent gets one command at a time.
type Client struct {
	// Timeout is how long the agent has for each answer; set it before use.
	Timeout time.Duration

	conn Conn

	mu     sync.Mutex
	r      *bufio.Reader // guarded by mu
	synced bool          // all that was asked has been answered; guarded by mu
}

// New makes a client of the agent behind conn, which it owns. It sends nothing
// before the first call.
func New(conn Conn) *Client {
	return &Client{Timeout: DefaultTimeout, conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}
}

// Close closes the stream. A call in progress fails.
func (c *Client) Close() error { return c.conn.Close() }

// request is one line to the agent.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
}

// Call sends one command and reads its answer into result, which may be nil. The
// error is an [*Error] when the agent refuses, [ErrNoAnswer] when the context or
// the Timeout ends first, and the connection's otherwise. After any error the
// next Call finds the stream in order.
func (c *Client) Call(ctx context.Context, command string, args, result any) error {
	line, err := json.Marshal(request{command, args})
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	answer, err := c.roundTrip(ctx, line)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(answer, result); err != nil {
		return fmt.Errorf("%s: the guest's answer makes no sense: %w", command, err)
	}
	return nil
}

// Send sends a command that has an answer only when it is refused, as one that
// ends the guest.
func (c *Client) Send(ctx context.Context, command string, args any) error {
	if err := c.Sync(ctx); err != nil { // or its silence would mean nothing
		return err
	}
	soon, cancel := context.WithTimeout(ctx, refusal)
	defer cancel()
	err := c.Call(soon, command, args, nil)
	if ctx.Err() == nil && (errors.Is(err, ErrNoAnswer) || errors.Is(err, ErrGone)) {
		return nil
	}
	return err
}

// hungUp reports the end of a stream.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Sync sees to it that the next answer is to the next question. Calls do so by
// themselves; alone, it says that an agent is there.
func (c *Client) Sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sync(ctx)
}

// Raw sends one command as it is and returns the line that answers it as it came,
// and whether that is a refusal. The error is [ErrNotCommand] for what is none.
func (c *Client) Raw(ctx context.Context, command []byte) (line []byte, refused bool, err error) {
	var q struct {
		Execute string `json:"execute"`
	}
	var one bytes.Buffer
	if json.Unmarshal(command, &q) != nil || q.Execute == "" || json.Compact(&one, command) != nil {
		return nil, false, ErrNotCommand
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	line, err = c.exchange(ctx, one.Bytes())
	answer, _ := parse(line)
	return line, answer.Error != nil, err
}

// reply is one line from the agent. One with neither is no answer.
type reply struct {
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
}

func (c *Client) roundTrip(ctx context.Context, line []byte) (json.RawMessage, error) {
	text, err := c.exchange(ctx, line)
	if err != nil {
		return nil, err
	}
	answer, _ := parse(text)
	if answer.Error != nil {
		return nil, answer.Error
	}
	return answer.Return, nil
}

// exchange sends a line and returns the line that answers it.
func (c *Client) exchange(ctx context.Context, line []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.synced || c.r.Buffered() > 0 { // nobody has asked for what is there
		if err := c.sync(ctx); err != nil {
			return nil, err
		}
	}
	c.synced = false
	defer c.until(ctx)()
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return nil, c.failure(ctx, err)
	}
	for {
		text, err := c.readLine()
		if err != nil {
			return nil, c.failure(ctx, err)
		}
		if _, ok := parse(text); ok {
			c.synced = true
			return text, nil
		}
	}
}

func parse(line []byte) (r reply, ok bool) {
	if err := json.Unmarshal(line, &r); err != nil {
		return reply{}, false
	}
	return r, r.Return != nil || r.Error != nil
}

// sync asks until the agent has answered the last question. It accepts the answer
// to no earlier one: those to later ones would be taken for other commands'.
func (c *Client) sync(ctx context.Context) error {
	c.synced = false
	for wait := firstRetry; ; wait *= 2 {
		soon, cancel := context.WithTimeout(ctx, wait)
		err := c.syncOnce(soon)
		cancel()
		switch {
		case err == nil:
			c.synced = true
			return nil
		case !errors.Is(err, ErrNoAnswer) || ctx.Err() != nil:
			return err
		}
	}
}

func (c *Client) syncOnce(ctx context.Context) error {
	defer c.until(ctx)()
	id := rand.Int64N(1 << 53) // what JSON numbers are sure to hold
	ask, err := json.Marshal(request{"guest-sync-delimited", map[string]int64{"id": id}})
	if err != nil {
		return err
	}
	ask = append(append([]byte{sentinel}, ask...), '\n')
	if _, err := c.conn.Write(ask); err != nil {
		return c.failure(ctx, err)
	}
	for {
		text, err := c.readSentinel()
		if err != nil {
			return c.failure(ctx, err)
		}
		var got int64
		if r, ok := parse(text); ok && json.Unmarshal(r.Return, &got) == nil && got == id {
			return nil
		}
	}
}

// readSentinel drops all up to the next sentinel and reads the line behind it.
func (c *Client) readSentinel() ([]byte, error) {
	for {
		switch b, err := c.r.ReadByte(); {
		case err != nil:
			return nil, err
		case b == sentinel:
			line, err := c.readLine()
			if at := bytes.LastIndexByte(line, sentinel); at >= 0 {
				line = line[at+1:]
			}
			return line, err
		}
	}
}

// readLine reads one line of bounded length.
func (c *Client) readLine() ([]byte, error) {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		if len(line)+len(part) > MaxReply {
			return nil, ErrTooLong
		}
		line = append(line, part...)
		if err == nil || !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// until makes reads and writes end with the context. The result must be called
// when they are over.
func (c *Client) until(ctx context.Context) (release func()) {
	c.conn.SetDeadline(time.Time{})
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		c.conn.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-ended // or it would end the next call
		}
	}
}

// failure is what a caller is told of an error of the stream.
func (c *Client) failure(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case ctx.Err() != nil:
		return ErrNoAnswer
	case hungUp(err):
		return ErrGone
	}
	return err
}

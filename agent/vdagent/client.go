// Package vdagent speaks with the SPICE agent of a guest over a channel: it passes
// text between the clipboards of the two sides, and says which monitors there are.
// Stock guests have that agent, spice-vdagentd and spice-vdagent.
//
// The protocol knows of a client only by what it says, and an agent that hears of a new
// one forgets what its own side has in the clipboard. So a [Client] says no more than
// that it is there; what comes before the answer to its question is dropped, wherever in
// a message that begins. When there is none, it says that whoever was there before has
// left, which has the agent forget half a message, and asks again. What comes from the
// guest is bounded and checked.
//
// Protocol: spice-protocol, spice/vd_agent.h.
package vdagent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

const (
	// DefaultTimeout is how long an agent has for one answer.
	DefaultTimeout = 10 * time.Second
	// MaxClipboard is the largest text in bytes that goes either way.
	MaxClipboard = 16 << 20
	// MaxMonitors is how many monitors there can be.
	MaxMonitors = 16
	// clipboardHead is what is before the data of a clipboard: selection and type.
	clipboardHead = 8
	// askAgain is how soon an agent is asked again that has said nothing; each time
	// doubles it. What came before it had its terminal open is lost.
	askAgain = 500 * time.Millisecond
)

// Errors that a caller can tell apart.
var (
	// ErrNoAnswer is an agent that says nothing in time.
	ErrNoAnswer = errors.New("the SPICE agent does not answer")
	// ErrNoClipboard is a guest whose clipboard has no text.
	ErrNoClipboard = errors.New("the guest's clipboard has no text")
	// ErrTaken is text that the guest has replaced by its own.
	ErrTaken = errors.New("something else is in the guest's clipboard")
	// ErrNotText is text that is not UTF-8.
	ErrNotText = errors.New("the text is not UTF-8")
)

// Conn is the host end of the agent's channel.
type Conn interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// Client is one client of an agent. It is not safe for concurrent use.
type Client struct {
	// Timeout is how long the agent has for each answer; set it before use.
	Timeout time.Duration

	conn  Conn
	d     decoder
	offer bool // something of ours is in the guest's clipboard
}

// New makes a client of the agent behind conn, which it owns.
func New(conn Conn) *Client {
	return &Client{Timeout: DefaultTimeout, conn: conn, d: decoder{r: bufio.NewReader(conn)}}
}

// Close closes the stream. What the client has offered is gone from the guest's
// clipboard then: the agent is told, or whoever pastes there would wait for it. It is
// told nothing else, since it would forget too that the guest has something there.
func (c *Client) Close() error {
	if c.offer {
		c.conn.SetDeadline(time.Now().Add(time.Second))
		c.send(portServer, message{kind: typeDisconnected}) // if it can still be said
	}
	return c.conn.Close()
}

func (c *Client) send(port uint32, m message) error {
	_, err := c.conn.Write(encode(port, m))
	return err
}

// until makes reads and writes end with the context, or after the time that an
// answer may take. The result is to be called when they are over.
func (c *Client) until(ctx context.Context, limit time.Duration) (release func()) {
	c.conn.SetDeadline(time.Time{})
	if limit > 0 {
		c.conn.SetDeadline(time.Now().Add(limit))
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		c.conn.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-ended
		}
	}
}

// failure is what a caller is told of an error of the stream.
func failure(ctx context.Context, err error) error {
	var timeout interface{ Timeout() bool }
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &timeout) && timeout.Timeout():
		return ErrNoAnswer
	}
	return err
}

// mine are this client's capabilities.
const mine = 1<<capMonitors | 1<<capReply | 1<<capByDemand | 1<<capSelection | 1<<capMaxClipboard | 1<<capPosition

// announce says what this client knows; an agent that is asked for the same takes it
// for a new client.
func announce(ask uint32) []byte {
	return encode(portClient, message{typeCapabilities, put32(nil, ask, mine)})
}

// ask sends a question until the agent answers with a message of a kind.
func (c *Client) ask(ctx context.Context, question []byte, kind uint32) (message, error) {
	end := time.Now().Add(c.Timeout)
	for wait := askAgain; ; wait *= 2 {
		m, err := c.askOnce(ctx, question, kind, max(min(wait, time.Until(end)), time.Millisecond))
		switch err = failure(ctx, err); {
		case !errors.Is(err, ErrNoAnswer) || !time.Now().Before(end):
			return m, err
		case wait == askAgain:
			question = append(encode(portServer, message{kind: typeDisconnected}), question...)
		}
	}
}

func (c *Client) askOnce(ctx context.Context, question []byte, kind uint32, limit time.Duration) (message, error) {
	defer c.until(ctx, limit)()
	if _, err := c.conn.Write(question); err != nil {
		return message{}, err
	}
	return c.d.sync(kind)
}

// Monitor is one monitor, in pixels.
type Monitor struct{ Width, Height, X, Y int }

// SetMonitors says which monitors the guest's desktop is to have, and waits until the
// agent has heard it. What the desktop makes of it is its own affair.
func (c *Client) SetMonitors(ctx context.Context, all []Monitor) error {
	data := put32(nil, uint32(len(all)), 1) // flags: positions are meant
	for _, m := range all {
		data = put32(data, uint32(m.Height), uint32(m.Width), 32, uint32(int32(m.X)), uint32(int32(m.Y)))
	}
	m, err := c.ask(ctx, append(announce(0), encode(portClient, message{typeMonitors, data})...), typeReply)
	switch {
	case err != nil:
		return err
	case len(m.data) < 8 || get32(m.data, 0) != typeMonitors:
		return ErrOutOfStep
	case get32(m.data, 1) != 1:
		return fmt.Errorf("the guest's SPICE agent refuses the monitors (error %d)", get32(m.data, 1))
	}
	return nil
}

// clipboard is the selection that is meant, in front of the data of a message: agents
// that know of no others are older than 2011.
func clipboard(data ...uint32) []byte { return put32(put32(nil, 0), data...) }

// Clipboard is the text in the guest's clipboard.
func (c *Client) Clipboard(ctx context.Context) ([]byte, error) {
	m, err := c.ask(ctx, append(announce(0), encode(portClient, message{typeRequest, clipboard(textType)})...), typeClipboard)
	if err != nil {
		return nil, err
	}
	if len(m.data) < clipboardHead {
		return nil, ErrOutOfStep
	}
	switch text := m.data[clipboardHead:]; {
	case get32(m.data, 1) != textType:
		return nil, ErrNoClipboard
	case !utf8.Valid(text):
		return nil, ErrNotText
	default:
		return text, nil
	}
}

// Offer puts text into the guest's clipboard and gives it to whatever pastes it there,
// until the context ends or the guest has put something else there: [ErrTaken]. With
// the client the text goes. pasted, which may be nil, is called each time that the
// guest has got it; when it returns false, Offer returns nil.
func (c *Client) Offer(ctx context.Context, text []byte, offered func(), pasted func() bool) error {
	switch {
	case len(text) > MaxClipboard:
		return fmt.Errorf("the text has %d bytes: at most %d go through a clipboard", len(text), MaxClipboard)
	case !utf8.Valid(text):
		return ErrNotText
	}
	hello, err := c.ask(ctx, announce(1), typeCapabilities)
	if err != nil {
		return err
	}
	if len(hello.data) < 8 || get32(hello.data, 1)>>capByDemand&1 == 0 {
		return errors.New("the guest's SPICE agent cannot share a clipboard")
	}
	defer c.until(ctx, 0)()
	if err := c.send(portClient, message{typeGrab, clipboard(textType)}); err != nil {
		return failure(ctx, err)
	}
	c.offer = true
	if offered != nil {
		offered()
	}
	for {
		m, err := c.d.next()
		if err != nil {
			return failure(ctx, err)
		}
		switch {
		case len(m.data) < 8 || m.data[0] != 0: // of another selection, or nonsense
		case m.kind == typeGrab:
			c.offer = false
			return ErrTaken
		case m.kind == typeRequest:
			if err := c.send(portClient, message{typeClipboard, answer(get32(m.data, 1), text)}); err != nil {
				return failure(ctx, err)
			}
			if pasted != nil && !pasted() {
				return nil
			}
		}
	}
}

// answer is the text, or nothing of another type.
func answer(kind uint32, text []byte) []byte {
	if kind != textType {
		kind, text = 0, nil
	}
	return append(clipboard(kind), text...)
}

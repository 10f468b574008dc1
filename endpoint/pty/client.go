package pty

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
)

// client is the time between two moments at which nobody has the slave open.
// Closing it does not close the master; a deadline in the past takes the place
// of that, and whoever sees one finds the reason in closed or gone.
type client struct {
	e *Endpoint

	readMu  sync.Mutex // held while the master is read for this client
	writeMu sync.Mutex // held while the master is written for this client
	eof     bool       // Read has returned io.EOF; guarded by readMu

	mu     sync.Mutex // comes after Endpoint.mu
	closed bool       // guarded by mu
	gone   bool       // guarded by mu
}

var past = time.Unix(1, 0)

// Read returns io.EOF once the client has left and its bytes are read.
func (c *client) Read(p []byte) (int, error) {
	return c.read(len(p),
		func() (int, error) { return c.e.file.Read(p) },
		func() (int, error) { return sys.ReadNow(c.e.rc, p) })
}

// ReadInto is Read into a pipe.
func (c *client) ReadInto(p *sys.Pipe, max int) (int, error) {
	return c.read(max,
		func() (int, error) { return p.Fill(c.e.rc, max) },
		func() (int, error) { return p.FillNow(c.e.rc, max) })
}

// read takes at most max bytes, with wait while the client is there, and with now
// what it has left behind.
func (c *client) read(max int, wait, now func() (int, error)) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for {
		closed, gone := c.state()
		switch {
		case closed:
			return 0, c.error("read", net.ErrClosed)
		case c.eof:
			return 0, io.EOF
		case max == 0:
			return 0, nil
		case gone:
			return c.drain(now)
		}
		n, err := wait()
		switch {
		case n > 0:
			return n, nil
		case err == nil, errors.Is(err, syscall.EIO), err == io.EOF:
			c.leave()
		case errors.Is(err, os.ErrDeadlineExceeded): // closed or gone has changed
		default:
			return 0, c.error("read", err)
		}
	}
}

// drain reads what a client left behind. The caller holds readMu.
func (c *client) drain(now func() (int, error)) (int, error) {
	n, err := now()
	switch {
	case n > 0:
		return n, nil
	case err == nil, errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EIO):
		c.eof = true
		return 0, io.EOF
	}
	return 0, c.error("read", err)
}

// Write fails with EPIPE once the client has left. The n bytes that it took
// until then are read by the client or wait for the next one.
func (c *client) Write(p []byte) (n int, err error) {
	err = c.write(func() (done bool, err error) {
		m, err := sys.WriteUntilHangup(c.e.rc, p[n:])
		n += m
		return n == len(p), err
	})
	return n, err
}

// WriteFrom is Write from a pipe.
func (c *client) WriteFrom(p *sys.Pipe) (n int, err error) {
	err = c.write(func() (done bool, err error) {
		n, err = p.EmptyUntilHangup(c.e.rc)
		return n > 0, err
	})
	return max(n, 0), err
}

// write calls some until all is done or the client has left.
func (c *client) write(some func() (done bool, err error)) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	for done := false; ; {
		closed, gone := c.state()
		switch {
		case done:
			return nil
		case closed:
			return c.error("write", net.ErrClosed)
		case gone:
			return c.error("write", syscall.EPIPE)
		}
		var err error
		done, err = some()
		switch {
		case err == nil:
		case errors.Is(err, syscall.EPIPE):
			c.leave()
		case errors.Is(err, os.ErrDeadlineExceeded): // closed or gone has changed
		default:
			return c.error("write", err)
		}
	}
}

// Handle is nil: all that there is of a client is the terminal.
func (c *client) Handle() (*sys.Handle, error) { return nil, nil }

// Close ends the use of the terminal for this client and returns when its Read
// and Write have. The terminal stays, also for those who still have it open.
func (c *client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	_ = c.e.file.SetDeadline(past) // fails only when the endpoint is closed
	c.mu.Unlock()

	c.readMu.Lock()
	c.writeMu.Lock()
	_ = c.e.file.SetDeadline(time.Time{})
	c.writeMu.Unlock()
	c.readMu.Unlock()

	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.e.client = nil
	c.e.announce()
	return nil
}

// Gone is true from the first time on that nobody is seen to have the slave open.
func (c *client) Gone() bool {
	if closed, gone := c.state(); closed || gone {
		return true
	}
	r, err := sys.PollNow(c.e.rc)
	if err != nil {
		return true // the endpoint is closed
	}
	if r.Hangup {
		c.leave()
	}
	return r.Hangup
}

// WaitGone may run beside Read too.
func (c *client) WaitGone() {
	for {
		c.e.mu.Lock()
		changed := c.e.changed
		c.e.mu.Unlock()
		if c.Gone() {
			return
		}
		<-changed
	}
}

// leave marks the client as gone, for good, and wakes Read and Write. Without
// the mark, somebody who opens the slave right now would be taken for it.
func (c *client) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.gone {
		return
	}
	c.gone = true
	_ = c.e.file.SetDeadline(past)
}

func (c *client) state() (closed, gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed, c.gone
}

func (c *client) error(op string, err error) error {
	if errors.Is(err, os.ErrClosed) {
		err = net.ErrClosed
	}
	return fmt.Errorf("pty: %s %s: %w", op, c.e.path, err)
}

// Package unixsock serves a channel on a unix stream socket. Each connection is
// a client of its own; those that are not accepted yet wait in the kernel's
// backlog, and what they send meanwhile is kept for them.
package unixsock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/internal/sys"
)

// Endpoint is a listening socket. It holds one descriptor.
type Endpoint struct {
	path string
	ln   *net.UnixListener
	id   sys.FileID // of the socket in the file system

	admit func(Peer) bool // nil: everybody

	closeOnce sync.Once
	closeErr  error
}

var (
	_ endpoint.Endpoint = (*Endpoint)(nil)
	_ endpoint.Reader   = (*Client)(nil)
)

// Peer is who made a connection.
type Peer = sys.Cred

var past = time.Unix(1, 0)

// MaxUnread is how many bytes a client is given beyond those that it has read. There are
// few, as nobody sees what it does with them, and they are given to the next one if it
// leaves.
const MaxUnread = 32 << 10

// enough is how much room there must be for a client to be given more.
const enough = 4 << 10

// Path is the socket's path as it was configured.
func (e *Endpoint) Path() string { return e.path }

// Accept returns a [*Client]: the one that has waited longest and may come in. A client that
// has left while it waited is returned too, as it may have sent bytes. An error
// such as EMFILE passes, and the client still waits.
func (e *Endpoint) Accept(ctx context.Context) (endpoint.Client, error) {
	for {
		conn, err := e.accept(ctx)
		if err != nil {
			return nil, err
		}
		if c, err := e.admitted(conn); c != nil || err != nil {
			return c, err
		}
	}
}

// AcceptNow is Accept that does not wait: it returns nil if nobody does.
func (e *Endpoint) AcceptNow() (endpoint.Client, error) {
	for {
		rc, err := e.Listener()
		if err != nil {
			return nil, err
		}
		switch r, err := sys.PollNow(rc); {
		case err != nil:
			return nil, e.acceptError(err)
		case !r.In:
			return nil, nil
		}
		// Whoever is in the backlog stays there until accepted, so this does not wait.
		conn, err := e.ln.AcceptUnix()
		if err != nil {
			return nil, e.acceptError(err)
		}
		if c, err := e.admitted(conn); c != nil || err != nil {
			return c, err
		}
	}
}

// Listener can be polled: there is input while a client waits.
func (e *Endpoint) Listener() (syscall.RawConn, error) {
	rc, err := e.ln.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("unixsock: %w", cause(err))
	}
	return rc, nil
}

// admitted makes a client of a connection, nil if it may not come in.
func (e *Endpoint) admitted(conn *net.UnixConn) (endpoint.Client, error) {
	c, err := e.newClient(conn)
	if err != nil {
		return nil, e.acceptError(err)
	}
	if e.admit == nil || e.admit(c.peer) {
		return c, nil
	}
	_ = conn.Close()
	return nil, nil
}

// newClient owns the connection, also when it fails.
func (e *Endpoint) newClient(conn *net.UnixConn) (*Client, error) {
	peer, credErr := sys.PeerCred(conn)
	rc, err := conn.SyscallConn()
	if err := errors.Join(credErr, err, conn.SetWriteBuffer(MaxUnread/2)); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &Client{path: e.path, conn: conn, rc: rc, peer: peer}, nil
}

func (e *Endpoint) accept(ctx context.Context) (*net.UnixConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := e.ln.SetDeadline(time.Time{}); err != nil {
		return nil, e.acceptError(err)
	}
	set := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(set)
		_ = e.ln.SetDeadline(past) // fails only when closed, which wakes Accept too
	})
	conn, err := e.ln.AcceptUnix()
	if !stop() {
		<-set // or it would hit the next Accept
	}
	if err != nil {
		if cause := ctx.Err(); cause != nil && !errors.Is(err, net.ErrClosed) {
			return nil, cause
		}
		return nil, e.acceptError(err)
	}
	return conn, nil
}

// Waiting is how many clients have connected and are not accepted yet.
func (e *Endpoint) Waiting() (int, error) {
	rc, err := e.Listener()
	if err != nil {
		return 0, err
	}
	n, err := sys.Backlog(rc)
	if err != nil {
		return 0, fmt.Errorf("unixsock: who waits at %s: %w", e.path, err)
	}
	return n, nil
}

func (e *Endpoint) acceptError(err error) error {
	return fmt.Errorf("unixsock: accept on %s: %w", e.path, cause(err))
}

// Client is one connection.
type Client struct {
	path string
	conn *net.UnixConn
	rc   syscall.RawConn
	peer Peer

	unread int         // for who writes
	reset  atomic.Bool // it has left with bytes unread, and the kernel does not say so again
}

// Read returns io.EOF when the client has finished sending or has left. It
// makes no difference here whether it has read all before.
func (c *Client) Read(p []byte) (int, error) {
	return c.wasRead(c.conn.Read(p))
}

// ReadInto is Read into a pipe.
func (c *Client) ReadInto(p *sys.Pipe, max int) (int, error) {
	n, err := p.FillUntilHangup(c.rc, max)
	if n == 0 && err == nil && max > 0 {
		err = io.EOF
	}
	return c.wasRead(n, err)
}

func (c *Client) wasRead(n int, err error) (int, error) {
	switch {
	case err == nil, err == io.EOF:
		return n, err
	case errors.Is(err, syscall.ECONNRESET): // left with bytes unread
		c.reset.Store(true)
		return n, io.EOF
	}
	return n, c.error("read", err)
}

// Write fails with EPIPE once the client has left.
func (c *Client) Write(p []byte) (int, error) {
	return c.wasWritten(c.conn.Write(p))
}

// WriteFrom is Write from a pipe.
func (c *Client) WriteFrom(p *sys.Pipe) (n int, err error) {
	if cerr := c.rc.Write(func(uintptr) bool {
		n, err = c.give(p)
		return !errors.Is(err, syscall.EAGAIN)
	}); cerr != nil {
		return c.wasWritten(0, cerr)
	}
	return c.wasWritten(n, err)
}

// WriteFromNow is WriteFrom that does not wait, and moves nothing instead.
func (c *Client) WriteFromNow(p *sys.Pipe) (int, error) {
	n, err := c.give(p)
	if errors.Is(err, syscall.EAGAIN) {
		return 0, nil
	}
	return c.wasWritten(n, err)
}

// give moves bytes out of a pipe to the client, or fails with EAGAIN. When the
// kernel says that one can write, there is room, as it says so later.
func (c *Client) give(p *sys.Pipe) (int, error) {
	unread, err := sys.Unsent(c.rc)
	if err != nil {
		return 0, err
	}
	if unread > MaxUnread-enough {
		return 0, syscall.EAGAIN
	}
	n, err := p.EmptyNow(c.rc, MaxUnread-unread)
	if err == nil { // so the client was there when the kernel said what it had not read
		c.unread = unread + n
	}
	return n, err
}

// Unread is the most that the client had not read when it took the last bytes. The
// kernel counts more than the bytes.
func (c *Client) Unread() int { return c.unread }

// Look is what Unread would be now.
func (c *Client) Look() int {
	unread, err := sys.Unsent(c.rc)
	if err != nil || c.Gone() { // the kernel has thrown away what was unread
		return MaxUnread
	}
	return unread
}

// Left says whether the client is gone, and whether it had read all that it was given.
func (c *Client) Left() (gone, all bool) {
	r, err := sys.PollNow(c.rc)
	return err == nil && r.Hangup, err == nil && !r.Error && !c.reset.Load()
}

func (c *Client) wasWritten(n int, err error) (int, error) {
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, syscall.ECONNRESET):
		err = syscall.EPIPE
	}
	return n, c.error("write", err)
}

// Close ends the connection.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil {
		return c.error("close", err)
	}
	return nil
}

// Gone is true when the other end is closed or shut down in both directions,
// which is all that poll(2) calls a hang-up on a unix stream socket.
func (c *Client) Gone() bool {
	r, err := sys.PollNow(c.rc)
	return err != nil || r.Hangup // an error: closed by us
}

// WaitGone waits as a reader of the socket: a Read meanwhile waits for it.
func (c *Client) WaitGone() {
	_ = sys.WaitHangup(c.rc) // an error: closed by us
}

// livePrefix begins the abstract address (unix(7)) of a client that wants to begin
// from now. An address is the one thing that a client can say before its first byte.
const livePrefix = "@xenchan.live."

// LiveAddr is an address from which a client connects that gets nothing of what waits
// for clients, but what comes from the moment on in which it is served.
func LiveAddr() *net.UnixAddr {
	return &net.UnixAddr{Name: livePrefix + rand.Text(), Net: "unix"}
}

// Live says whether the client wants to begin from now.
func (c *Client) Live() bool {
	return strings.HasPrefix(c.conn.RemoteAddr().String(), livePrefix)
}

// Peer is who connected.
func (c *Client) Peer() Peer { return c.peer }

func (c *Client) error(op string, err error) error {
	return fmt.Errorf("unixsock: %s client of %s: %w", op, c.path, cause(err))
}

// cause takes the net package's prefix from an error: the address in it is the
// one under which the socket was bound, which means nothing to the reader.
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// Package endpoint names the host end of a channel: the place where programs on
// the host become clients of it. unixsock and pty implement it; endpointtest is
// the suite that each implementation must pass.
package endpoint

import (
	"context"
	"io"
	"syscall"

	"github.com/xenchan/xenchan/internal/sys"
)

// Endpoint waits for clients at one well-known place on the host.
type Endpoint interface {
	// Path is what a client opens: a socket's path or a terminal's.
	Path() string

	// Accept waits for the next client. Cancelling the context, or Close,
	// wakes it; the error is then ctx.Err(), or [net.ErrClosed]. One goroutine
	// at a time. Which clients may be served at once is the caller's decision,
	// but a terminal has one client for as long as anybody holds it open: there
	// the next one comes after the one before is closed. A client may have
	// left before it is accepted; what it sent can still be read.
	Accept(ctx context.Context) (Client, error)

	// Close removes the endpoint from the host's file system. Clients of a
	// socket that were accepted stay until they are closed; a terminal ends
	// with its clients. Closing again does nothing.
	Close() error

	// Handle is one more descriptor of the endpoint. While a process keeps it, the
	// endpoint lives on, and can be adopted by another one. Leave is Close for that
	// case: what is in the host's file system stays.
	Handle() (*sys.Handle, error)
	Leave() error

	// Restore makes a client of its Handle, which it owns from then on, in the
	// process that has adopted the endpoint.
	Restore(h *sys.Handle) (Client, error)
}

// Quiet is an Endpoint for which nobody needs to wait in a goroutine of its own.
type Quiet interface {
	Endpoint

	// Listener can be polled: there is input while a client waits. AcceptNow is
	// Accept that does not wait; the client is nil if there is none.
	Listener() (syscall.RawConn, error)
	AcceptNow() (Client, error)
}

// Client is one program at an endpoint, or all that hold one terminal open.
// Read and Write may be used at the same time by one goroutine each.
//
// Read returns [io.EOF] once the client has finished sending or has left, and
// all that it sent was read. Write blocks while the client does not read; once
// the client has left it fails with [syscall.EPIPE], and of the bytes that it
// took until then the client may have read none: a socket drops them, a
// terminal keeps them for the next client. Close wakes both; they fail with
// [net.ErrClosed] then.
type Client interface {
	io.ReadWriteCloser

	// ReadInto and WriteFrom are Read and Write with a pipe for the bytes, see
	// [sys.Pipe]: a process that is killed meanwhile leaves no doubt about which
	// bytes have moved. ReadInto moves at most max bytes into an empty pipe;
	// WriteFrom returns when the client has taken some of what is in the pipe.
	ReadInto(p *sys.Pipe, max int) (int, error)
	WriteFrom(p *sys.Pipe) (int, error)

	// Handle is one more descriptor of the client, to keep it for another process;
	// nil on a terminal, where the endpoint's is all there is.
	Handle() (*sys.Handle, error)

	// Gone reports, without blocking, whether the client has left for good, so
	// that nothing written can reach it. A client that has only finished
	// sending (a half-closed socket) is not gone. Bytes that it sent before it
	// left can still be read.
	Gone() bool

	// WaitGone blocks until Gone is true or the client is closed. It may run
	// beside Write; not beside Read, for which it may have to wait, or Read for
	// it. So its place is after Read has returned [io.EOF].
	WaitGone()
}

// Reader is a Client of whose bytes, of those that it was given, one can tell that it
// has read them. The methods are for who writes to it, but Left.
type Reader interface {
	Client

	// Unread is the most that it had not read when it took the last ones.
	Unread() int
	// Look is what Unread would be now.
	Look() int
	// Left says whether the client is gone, see Gone, and whether it had read all then.
	Left() (gone, all bool)
}

// Package endpoint names the host end of a channel: the place where programs on
// the host become clients of it. unixsock and pty implement it; endpointtest is
// the suite that each implementation must pass.
package endpoint

import (
	"context"
	"io"
)

// Endpoint waits for clients at one well-known place on the host.
type Endpoint interface {
	// Path is what a client opens: a socket's path or a terminal's.
	Path() string

	// Accept waits for the next client. Cancelling the context, or Close,
	// wakes it; after Close the error is [net.ErrClosed]. One goroutine at a
	// time. Which clients may be served at once is the caller's decision, but
	// a terminal has one client for as long as anybody holds it open.
	Accept(ctx context.Context) (Client, error)

	// Close removes the endpoint from the host's file system. Clients that
	// were accepted stay until they are closed.
	Close() error
}

// Client is one program at an endpoint. Read and Write may be used at the same
// time by one goroutine each; Close wakes both.
type Client interface {
	io.ReadWriteCloser

	// Gone reports, without blocking, whether the client has left for good, so
	// that nothing written can reach it. A client that has only finished
	// sending (a half-closed socket) is not gone. Bytes that it sent before it
	// left can still be read.
	Gone() bool

	// WaitGone blocks until Gone is true or the client is closed. It may run
	// beside Write, and after Read has returned [io.EOF].
	WaitGone()
}

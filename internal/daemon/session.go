package daemon

import (
	"context"
	"sync"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/endpoint"
)

const (
	// lingering bounds the clients that have left with bytes for a guest that
	// does not read; further clients wait in the endpoint's backlog.
	lingering = 16
	// patience is how often a client whose bytes are stuck is asked whether it
	// is still there.
	patience = 250 * time.Millisecond
	// readSize is how many bytes are taken from a client at a time: several rings.
	readSize = 4 << 10
)

// server serves one endpoint's clients, one after the other. A client that
// leaves is followed by the next at once, even if the guest has not read all that
// it sent: those bytes keep their place in front of the next client's.
type server struct {
	dev     *device
	ep      endpoint.Endpoint
	overlap bool            // a client is a connection of its own and may be outlived by its bytes
	slots   chan struct{}   // capacity lingering
	before  <-chan struct{} // closed when the client before has sent all it had; for run alone
}

func newServer(d *device, ep endpoint.Endpoint) *server {
	first := make(chan struct{})
	close(first)
	return &server{
		dev: d, ep: ep, overlap: d.spec.Connection == channel.Socket,
		slots: make(chan struct{}, lingering), before: first,
	}
}

// run accepts clients until the context ends, and joins them all.
func (s *server) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for ctx.Err() == nil {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		client, err := s.ep.Accept(ctx)
		if err != nil {
			<-s.slots
			if ctx.Err() == nil {
				s.dev.log.Warn("accept", "error", err)
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
			continue
		}
		s.serve(ctx, client, &wg)
	}
}

// serve returns when the client has left; what it sent may still be on its way.
func (s *server) serve(ctx context.Context, client endpoint.Client, wg *sync.WaitGroup) {
	defer s.dev.clientCame(client)()
	here, left := context.WithCancel(ctx)
	defer left()
	turn, received := s.before, make(chan struct{})
	s.before = received
	wg.Go(func() { // wakes whatever blocks when the daemon stops
		select {
		case <-ctx.Done():
		case <-received:
		}
		client.Close()
		<-s.slots
	})
	wg.Go(func() {
		defer close(received)
		s.receive(ctx, client, turn, left)
	})
	s.send(here, client)
	left()
	if !s.overlap {
		<-received
	}
}

// send writes what is in the spool to the client until the client has left. Bytes
// leave the spool only when they were written.
func (s *server) send(ctx context.Context, client endpoint.Client) {
	spool := s.dev.spool
	for ctx.Err() == nil {
		p := spool.Peek()
		if p == nil {
			select {
			case <-spool.Data():
			case <-ctx.Done():
			}
			continue
		}
		n, err := client.Write(p)
		spool.Advance(n)
		if err != nil {
			return
		}
	}
}

// receive sends what the client writes to the guest once it is its turn, and
// says when the client has left.
func (s *server) receive(ctx context.Context, client endpoint.Client, turn <-chan struct{}, left func()) {
	defer left()
	for !s.wait(ctx, client, turn, left) {
		if ctx.Err() != nil {
			return
		}
	}
	buf := make([]byte, readSize)
	for {
		n, err := client.Read(buf)
		if pushErr := s.push(ctx, client, buf[:n], left); pushErr != nil {
			return
		}
		if err != nil {
			client.WaitGone() // it may have finished sending and still read
			return
		}
	}
}

// wait waits for c, but not for long, and looks whether the client is still there.
func (s *server) wait(ctx context.Context, client endpoint.Client, c <-chan struct{}, left func()) (ok bool) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	s.check(client, left)
	return false
}

func (s *server) check(client endpoint.Client, left func()) {
	if s.overlap && client.Gone() {
		left()
	}
}

// push puts p into the guest's ring, waiting for room and, if need be, for a
// guest. Nothing is given up on but at the end of the channel.
func (s *server) push(ctx context.Context, client endpoint.Client, p []byte, left func()) error {
	for len(p) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		conn, attached := s.dev.guest()
		if conn == nil {
			s.wait(ctx, client, attached, left)
			continue
		}
		n, err := conn.TryWrite(p)
		p = p[n:]
		switch {
		case len(p) == 0:
			return nil
		case err != nil: // this ring is no more; the guest may come back with another
			s.pause(ctx)
		default:
			conn.WaitWritable(ctx, patience)
		}
		s.check(client, left)
	}
	return nil
}

func (s *server) pause(ctx context.Context) {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
	}
}

package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/spool"
)

const (
	// lingering bounds the clients that have left with bytes for a guest that
	// does not read; further clients wait in the endpoint's backlog.
	lingering = 16
	// patience is how often a client whose bytes are stuck is asked whether it
	// is still there.
	patience = 250 * time.Millisecond
	// guestWaits is how long a guest whose spool is full is held back, from one step
	// of its client to the next.
	guestWaits = 50 * time.Millisecond
)

// server serves one endpoint's clients, one after the other. A client that
// leaves is followed by the next at once, even if the guest has not read all that
// it sent: those bytes keep their place in front of the next client's.
type server struct {
	dev     *device
	ep      endpoint.Endpoint
	quiet   endpoint.Quiet // ep, if run need not wait for clients; else nil
	ctx     context.Context
	stop    context.CancelCauseFunc
	wg      sync.WaitGroup  // all goroutines
	overlap bool            // a client is a connection of its own and may be outlived by its bytes
	slots   chan struct{}   // capacity lingering
	before  <-chan struct{} // closed when the client before has sent all it had; for run alone
	earlier []string        // clients of an earlier daemon, as they are kept, in order; for run alone
	number  int             // of the last client; for run alone
}

// visit is one client while it is served.
type visit struct {
	endpoint.Client
	live     bool               // it wants nothing of what is spooled when it is served
	kept     string             // its name where it is kept; empty if it is not
	left     context.CancelFunc // says that it has left
	turn     <-chan struct{}    // closed when it may send
	sent     chan struct{}      // closed when it is served no more
	received chan struct{}      // closed when all that it sent is on its way
	finished bool               // and it has left, so that nothing is to be kept; after received
}

func newServer(d *device, ep endpoint.Endpoint, quiet bool) *server {
	s := &server{
		dev: d, ep: ep, overlap: d.spec.Connection == channel.Socket,
		slots: make(chan struct{}, lingering), earlier: d.keptClients(),
	}
	if quiet {
		s.quiet, _ = ep.(endpoint.Quiet)
	}
	if n := len(s.earlier); n > 0 {
		s.number = clientNumber(s.earlier[n-1])
	}
	s.ctx, s.stop = context.WithCancelCause(d.daemon.life)
	if d.spec.Connection == channel.PTY {
		s.wg.Go(func() { d.keepTTY(s.ctx, ep.Path()) })
	}
	// What an earlier daemon had taken from a client comes before all else.
	first := make(chan struct{})
	s.before = first
	s.slots <- struct{}{}
	s.wg.Go(func() {
		defer close(first)
		_ = s.push(s.ctx, nil) // fails only when the context ends
		<-s.slots
	})
	return s
}

// run serves clients until the server is stopped or, at a quiet endpoint, nobody waits.
func (s *server) run() {
	for s.ctx.Err() == nil {
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		v, err := s.next(s.ctx)
		if err == nil && v != nil {
			s.serve(s.ctx, v)
			continue
		}
		<-s.slots
		if err == nil {
			return
		}
		if s.ctx.Err() == nil {
			s.dev.log.Warn("accept", "error", err)
			select {
			case <-time.After(time.Second):
			case <-s.ctx.Done():
			}
		}
	}
}

// idle says that all that clients have sent is where it belongs.
func (s *server) idle() bool { return len(s.slots) == 0 }

// next waits for a client: those that an earlier daemon had are the first. It is nil when
// nobody waits at a quiet endpoint.
func (s *server) next(ctx context.Context) (*visit, error) {
	for len(s.earlier) > 0 {
		if err := s.makePipes(); err != nil {
			return nil, err
		}
		what := s.earlier[0]
		s.earlier = s.earlier[1:]
		if h := s.dev.keep.take(what); h != nil {
			client, err := s.ep.Restore(h)
			if err == nil {
				s.dev.daemon.files.have(clientFiles)
				return &visit{Client: client, kept: what}, nil
			}
			s.dev.log.Warn("a client of an earlier daemon is lost", "error", err)
		}
		s.dev.keep.drop(what)
	}
	client, err := s.accept(ctx)
	if client == nil || err != nil {
		return nil, err
	}
	if err := s.awaitPipes(ctx); err != nil {
		s.letGo(client)
		return nil, err
	}
	v := &visit{}
	if c, ok := client.(interface{ Live() bool }); ok {
		v.live = c.Live()
	}
	if v.Client, err = s.dev.filter(client); err != nil {
		s.letGo(client)
		return nil, err
	}
	if h, err := v.Handle(); h != nil || err != nil {
		s.number++
		v.kept = fmt.Sprint(keptClient, s.number)
		s.dev.keep.putOne(v.kept, h, err) // before any byte of it moves
	}
	return v, nil
}

// accept is Accept of the endpoint, or AcceptNow. A client for which there are no
// descriptors stays in the backlog.
func (s *server) accept(ctx context.Context) (endpoint.Client, error) {
	if s.quiet == nil {
		c, err := s.ep.Accept(ctx)
		if err == nil {
			s.dev.daemon.files.have(clientFiles)
		}
		return c, err
	}
	files := &s.dev.daemon.files
	wanted := clientFiles + pipeFiles - s.dev.pipes.files() // the pipes themselves count once they are there
	if !files.client(wanted) {
		if s.waits() {
			return nil, errFiles
		}
		return nil, nil
	}
	c, err := s.quiet.AcceptNow()
	if c == nil || err != nil {
		files.have(-wanted)
	} else {
		files.have(clientFiles - wanted)
	}
	return c, err
}

// waits says whether somebody waits at a quiet endpoint.
func (s *server) waits() bool {
	listener, err := s.quiet.Listener()
	if err != nil {
		return true // AcceptNow says why it fails
	}
	r, err := sys.PollNow(listener)
	return err != nil || r.In
}

// awaitPipes makes the pipes for the first client. Where there are no descriptors for
// them, the client waits.
func (s *server) awaitPipes(ctx context.Context) error {
	for {
		err := s.makePipes()
		if err == nil {
			return nil
		}
		s.dev.log.Warn("no pipes for a client yet", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *server) makePipes() error {
	before := s.dev.pipes.files()
	err := s.dev.pipes.ensure()
	s.dev.daemon.files.have(s.dev.pipes.files() - before)
	return err
}

func (s *server) letGo(c endpoint.Client) {
	_ = c.Close()
	s.dev.daemon.files.have(-clientFiles)
}

// serve returns when the client has left; what it sent may still be on its way.
func (s *server) serve(ctx context.Context, v *visit) {
	defer s.dev.clientCame(v.Client)()
	here, left := context.WithCancel(ctx)
	defer left()
	v.left, v.turn, v.sent, v.received = left, s.before, make(chan struct{}), make(chan struct{})
	s.before = v.received
	s.wg.Go(func() {
		select {
		case <-v.received:
			if v.finished && v.kept != "" {
				<-v.sent // what it has not read is the next one's
				s.dev.keep.drop(v.kept)
			}
		case <-ctx.Done(): // wakes whatever blocks when the daemon stops
		}
		s.letGo(v.Client)
		<-s.slots
	})
	s.wg.Go(func() {
		defer close(v.received)
		v.finished = s.receive(ctx, v)
	})
	s.send(here, v)
	close(v.sent)
	left()
	if !s.overlap {
		<-v.received
	}
}

// send gives the client what is in the spool, until it has left. Bytes leave the
// spool only when the client, or its terminal, has them.
func (s *server) send(ctx context.Context, v *visit) {
	s.dev.reader.Lock()
	defer s.dev.reader.Unlock()
	if v.live {
		if _, err := s.dev.skip(); err != nil {
			s.dev.log.Error("the pipe to the client", "error", err)
			return
		}
	}
	out := &s.dev.out
	out.serve(v.Client)
	defer func() {
		n, err := out.leave()
		if n > 0 {
			s.dev.log.Info("the client has left and not read all that it was given", "unread", n)
		}
		if err != nil {
			s.dev.log.Error("the pipe to the client", "error", err)
		}
	}()
	for ctx.Err() == nil {
		more, err := out.send()
		if err != nil {
			if !errors.Is(err, errClient) {
				s.dev.log.Error("the pipe to the client", "error", err)
			}
			return
		}
		if !more {
			select {
			case <-s.dev.spool.Data():
			case <-ctx.Done():
			}
		}
	}
}

// receive sends what the client writes to the guest once it is its turn, and says
// when the client has left. It reports whether it did all that there was to do.
func (s *server) receive(ctx context.Context, v *visit) (finished bool) {
	defer v.left()
	for !s.wait(ctx, v, v.turn) {
		if ctx.Err() != nil {
			return false
		}
	}
	pipes := s.dev.pipes
	for {
		n, readErr := v.ReadInto(pipes.in, spool.InboxSize)
		if n > 0 {
			if err := pipes.receive(n); err != nil {
				s.dev.log.Error("the pipe from the client", "error", err)
				return false
			}
		}
		if s.push(ctx, v) != nil {
			return false
		}
		if readErr != nil {
			v.WaitGone() // it may have finished sending and still read
			return ctx.Err() == nil
		}
	}
}

// wait waits for c, but not for long, and looks whether the client is still there.
func (s *server) wait(ctx context.Context, v *visit, c <-chan struct{}) (ok bool) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	s.check(v)
	return false
}

// check looks whether a client is still there whose bytes are stuck.
func (s *server) check(v *visit) {
	if v != nil && s.overlap && v.Gone() {
		v.left()
	}
}

// push puts what is in the inbox into the guest's ring, waiting for room and, if
// need be, for a guest. Nothing is given up on but at the end of the channel. The
// bytes are those of the client, if there is one.
func (s *server) push(ctx context.Context, v *visit) error {
	inbox := s.dev.spool.Inbox()
	for len(inbox.Next()) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		conn, attached := s.dev.guest()
		if conn == nil {
			s.wait(ctx, v, attached)
			continue
		}
		err := conn.Feed()
		switch {
		case len(inbox.Next()) == 0:
			return nil
		case err != nil: // this ring is no more; the guest may come back with another
			s.pause(ctx)
		default:
			conn.WaitWritable(ctx, patience)
		}
		s.check(v)
	}
	return nil
}

func (s *server) pause(ctx context.Context) {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
	}
}

package daemon

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/endpoint/unixsock"
	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/spool"
)

// life is what one daemon after the other has of a channel: memory and descriptors
// that outlive each of them.
type life struct {
	t      *testing.T
	memory spool.Memory
	peer   net.Conn // the program that is the client
	client endpoint.Client
	in     *sys.Pipe
	out    *sys.Pipe
	log    *spool.Log
}

func newLife(t *testing.T) *life {
	t.Helper()
	l := &life{t: t, memory: spool.Memory{Bytes: make([]byte, spool.RegionSize(100_000))}}
	ep, err := unixsock.Listen(unixsock.Config{Path: filepath.Join(t.TempDir(), "s")})
	l.check(err)
	l.peer, err = net.Dial("unix", ep.Path())
	l.check(err)
	l.client, err = ep.Accept(t.Context())
	l.check(err)
	t.Cleanup(func() { l.peer.Close(); l.client.Close(); ep.Close() })
	for _, p := range []**sys.Pipe{&l.in, &l.out} {
		*p, err = sys.NewPipe()
		l.check(err)
		t.Cleanup(func() { (*p).Close() })
	}
	l.log, err = spool.Format(l.memory, 100_000, spool.DropOldest, "")
	l.check(err)
	return l
}

func (l *life) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// next is the daemon that follows one that was killed.
func (l *life) next() *pipes {
	l.t.Helper()
	var err error
	l.log, err = spool.Open(l.memory, 100_000, spool.DropOldest, "")
	l.check(err)
	p := openPipes(l.log, l.handle(l.in), l.handle(l.out), newKeep(nil, "1-1", nil, slog.New(slog.DiscardHandler)))
	l.t.Cleanup(func() { p.close() })
	if p.in == nil || p.out == nil {
		l.t.Fatal("a pipe was refused")
	}
	return p
}

// handle is another descriptor of a pipe, as the service manager gives it.
func (l *life) handle(p *sys.Pipe) *sys.Handle {
	l.t.Helper()
	f, err := p.Handle().File("pipe")
	l.check(err)
	defer f.Close()
	rc, err := f.SyscallConn()
	l.check(err)
	h, err := sys.Duplicate(rc)
	l.check(err)
	return h
}

func testPattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8)
	}
	return p
}

// Wherever a daemon is killed between a client and the inbox, the next one has each
// byte once.
func TestPipes_killedTowardsTheGuest(t *testing.T) {
	want := testPattern(3000)
	steps := []func(*life){
		func(l *life) { l.splice(1000) },
		func(l *life) { l.log.Inbox().Begin(1000) },
		func(l *life) { l.readPipe(l.inboxPlace()[:400]) },
		func(l *life) { l.readPipe(l.inboxPlace()[400:1000]) },
		func(l *life) { l.log.Inbox().Ready() },
		func(l *life) { l.log.Inbox().Attach(spool.RingID{}, 0); l.log.Inbox().Advance(300) },
	}
	for kill := range len(steps) + 1 {
		t.Run(fmt.Sprint("after ", kill), func(t *testing.T) {
			l := newLife(t)
			_, err := l.peer.Write(want)
			l.check(err)
			for _, step := range steps[:kill] {
				step(l)
			}
			var got []byte
			if kill == len(steps) {
				got = append(got, want[:300]...) // are in the ring
			}
			p := l.next()
			for {
				got = append(got, l.log.Inbox().Next()...)
				l.log.Inbox().Advance(len(l.log.Inbox().Next()))
				if len(got) >= len(want) {
					break
				}
				n, err := l.client.ReadInto(p.in, spool.InboxSize)
				l.check(err)
				l.check(p.receive(n))
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes, or others than the %d that were sent", len(got), len(want))
			}
		})
	}
}

func (l *life) splice(n int) {
	got, err := l.client.ReadInto(l.in, n)
	if l.check(err); got != n {
		l.t.Fatalf("%d bytes", got)
	}
}

// inboxPlace is where the bytes of the batch go: Begin has given it.
func (l *life) inboxPlace() []byte { return l.memory.Bytes[4<<10:][:spool.InboxSize] }

func (l *life) readPipe(to []byte) {
	n, err := l.in.Read(to)
	if l.check(err); n != len(to) {
		l.t.Fatalf("%d bytes", n)
	}
}

// Wherever a daemon is killed between the spool and a client, the client gets each
// byte once.
func TestPipes_killedTowardsTheClient(t *testing.T) {
	want := testPattern(90_000)
	write := func(l *life, n int) {
		_, err := l.out.Write(l.log.Peek()[:n])
		l.check(err)
	}
	steps := []func(*life){
		func(l *life) { l.log.Peek() },
		func(l *life) { write(l, 20_000) },
		func(l *life) { l.log.Load(20_000) },
		func(l *life) { // all that a socket takes, or a part of it
			_, err := l.client.WriteFrom(l.out)
			l.check(err)
		},
	}
	for kill := range len(steps) + 1 {
		t.Run(fmt.Sprint("after ", kill), func(t *testing.T) {
			l := newLife(t)
			l.log.Append(want, 0)
			for _, step := range steps[:kill] {
				step(l)
			}
			p := l.next()
			go func() {
				for more, err := p.load(); more && err == nil; more, err = p.load() {
					n, _ := l.client.WriteFrom(p.out)
					l.log.Advance(n, 0)
				}
				l.client.Close()
			}()
			got, err := io.ReadAll(l.peer)
			if l.check(err); !bytes.Equal(got, want) {
				t.Errorf("%d bytes, or others than the %d that were sent", len(got), len(want))
			}
		})
	}
}

// A pipe that does not fit the spool is given up, and the channel goes on.
func TestPipes_strange(t *testing.T) {
	l := newLife(t)
	for _, p := range []*sys.Pipe{l.in, l.out} {
		p.Write(make([]byte, spool.InboxSize+1))
	}
	p := openPipes(l.log, l.handle(l.in), l.handle(l.out), newKeep(nil, "1-1", nil, slog.New(slog.DiscardHandler)))
	defer p.close()
	if p.in != nil || p.out != nil {
		t.Fatal("bytes from nowhere were taken")
	}
	l.check(p.ensure())
	l.log.Append([]byte("hello"), 0)
	if more, err := p.load(); !more || err != nil {
		t.Errorf("%v, %v", more, err)
	}
}

// Where nobody has kept the pipes, the client is gone too. The next one gets what was
// in the pipe, all of it; for the guest there is what was complete.
func TestPipes_lost(t *testing.T) {
	want := testPattern(30_000)
	l := newLife(t)
	l.log.Append(want, 0)
	n, err := l.out.Write(l.log.Peek())
	l.check(err)
	l.log.Load(n)
	n, err = l.client.WriteFrom(l.out)
	l.check(err)
	l.log.Advance(n/2, 0) // it was killed before it could say more
	got := make([]byte, n)
	_, err = io.ReadFull(l.peer, got)
	l.check(err)
	copy(l.log.Inbox().Begin(5), "whole")
	l.log.Inbox().Ready()

	l.log, err = spool.Open(l.memory, 100_000, spool.DropOldest, "")
	l.check(err)
	p := openPipes(l.log, nil, nil, newKeep(nil, "1-1", nil, slog.New(slog.DiscardHandler)))
	defer p.close()
	l.check(p.ensure())
	if next := l.log.Inbox().Next(); string(next) != "whole" {
		t.Errorf("for the guest there is %q", next)
	}
	go func() {
		for more, err := p.load(); more && err == nil; more, err = p.load() {
			n, _ := l.client.WriteFrom(p.out)
			l.log.Advance(n, 0)
		}
		l.client.Close()
	}()
	again, err := io.ReadAll(l.peer)
	if l.check(err); !bytes.Equal(again, want[n/2:]) || !bytes.Equal(got, want[:n]) {
		t.Errorf("%d bytes came, and %d after that", len(got), len(again))
	}
}

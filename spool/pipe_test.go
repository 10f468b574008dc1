package spool

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

// errKilled is what a process of the model panics with.
var errKilled = errors.New("killed")

// world is what a process that dies leaves behind: the region, what the kernel
// keeps, and the guest's page. Every byte that moves is counted by its place.
type world struct {
	t      *testing.T
	rnd    *rand.Rand
	memory Memory
	steps  int // until the process is killed

	in, out []byte // what is in the pipes
	prod    uint32 // of the guest's ring
	ring    RingID

	fromClient int    // bytes that the client has sent
	toGuest    []byte // what the guest has got
	taken      int    // bytes of the guest that the log took
	client     []byte // what clients have got, each byte once
	again      int    // bytes that came once more, for the next client

	socket   []byte // what the client has not read
	socketAt int    // the place of that
	left     bool   // the client has left, with bytes unread
}

// step is a place at which the process may be killed.
func (w *world) step() {
	if w.steps--; w.steps < 0 {
		panic(errKilled)
	}
}

// life is one process: it goes on where the last one stopped.
func (w *world) life() {
	defer func() {
		if r := recover(); r != nil && r != errKilled {
			panic(r)
		}
	}()
	l, err := Open(w.memory, testSize, DropOldest, "x")
	if err != nil {
		w.t.Fatal(err)
	}
	l.onWrite, l.inbox.onWrite = w.step, w.step
	if err := l.Reload(len(w.out)); l.s.stale && errors.Is(err, ErrUnusable) {
		w.out = nil
		l.Unload()
	} else if err != nil {
		w.t.Fatal(err)
	}
	rest, err := l.Inbox().Resume(len(w.in))
	if err != nil {
		w.t.Fatal(err)
	}
	w.fill(l.Inbox(), rest)
	if w.left {
		w.leave(l)
	}
	// The guest may have another ring meanwhile. Only if the last process died
	// between the store of an index and that of the inbox, nobody can know how
	// much the old ring had.
	if w.rnd.IntN(10) == 0 && l.Inbox().s.at == w.prod {
		w.prod = w.rnd.Uint32()
		w.ring.Ref++
	}
	l.Inbox().Attach(w.ring, w.prod)
	for {
		if w.rnd.IntN(2) == 0 {
			w.towardsGuest(l.Inbox())
		} else {
			w.towardsClient(l)
		}
		if w.rnd.IntN(50) == 0 {
			w.prod, w.ring.Port = w.rnd.Uint32(), w.ring.Port+1
			l.Inbox().Attach(w.ring, w.prod)
		}
	}
}

// testByte is the byte at a place of either stream.
func testByte(at int) byte { return byte(at*7 + at>>8*31) }

func testBytes(at, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = testByte(at + i)
	}
	return p
}

func (w *world) towardsGuest(b *Inbox) {
	if len(b.Next()) == 0 {
		n := 1 + w.rnd.IntN(InboxSize)>>w.rnd.IntN(12)
		w.in = testBytes(w.fromClient, n) // splice
		w.fromClient += n
		w.step()
		w.fill(b, b.Begin(n))
	}
	p := b.Next()
	n := w.rnd.IntN(min(len(p), 1024) + 1)
	w.toGuest = append(w.toGuest, p[:n]...) // one store: the producer's index
	w.prod += uint32(n)
	w.step()
	b.Advance(n)
}

// fill reads from the pipe, in parts.
func (w *world) fill(b *Inbox, to []byte) {
	for len(to) > 0 {
		n := copy(to[:1+w.rnd.IntN(len(to))], w.in)
		to, w.in = to[n:], w.in[n:]
		w.step()
	}
	b.Ready()
}

func (w *world) towardsClient(l *Log) {
	if n := w.rnd.IntN(2000); l.Positions().Spooled+int64(n) <= testSize {
		l.Append(testBytes(w.taken, n), 0)
		l.Settle()
	}
	w.taken = int(l.Positions().End)
	if l.Loaded() == 0 {
		p := l.Peek()
		if len(p) == 0 {
			return
		}
		n := 1 + w.rnd.IntN(len(p))
		w.out = bytes.Clone(p[:n]) // write
		w.step()
		l.Load(n)
	}
	if len(w.socket) == 0 {
		w.socketAt = int(l.Positions().Delivered)
	}
	n := min(w.rnd.IntN(len(w.out)+1), MaxUnread-len(w.socket))
	w.socket = append(w.socket, w.out[:n]...) // splice
	unread := len(w.socket)
	w.out = w.out[n:]
	w.step()
	l.Advance(n, unread+w.rnd.IntN(100))
	w.read()
	if w.rnd.IntN(20) == 0 && len(w.socket) > 0 {
		w.socket, w.left = nil, true // close
		w.step()
		w.leave(l)
	}
}

// read is the client, which reads some.
func (w *world) read() {
	n := min(len(w.socket), w.rnd.IntN(4000))
	known := len(w.client) - w.socketAt // bytes that it, or one before it, has read
	if known < 0 {
		w.t.Fatalf("after %d bytes there come those from %d on", len(w.client), w.socketAt)
	}
	twice := min(n, known)
	if !bytes.Equal(w.socket[:twice], w.client[w.socketAt:][:twice]) {
		w.t.Fatal("what comes again is something else")
	}
	w.client = append(w.client, w.socket[twice:n]...)
	w.again += twice
	w.socket, w.socketAt = w.socket[n:], w.socketAt+n
}

// leave is what follows when the client has left.
func (w *world) leave(l *Log) {
	piped := len(w.out)
	n := l.Return()
	w.step()
	if n > 0 {
		w.out = w.out[piped:]
	}
	w.left = false
	if from := int(l.Positions().Delivered); from > len(w.client) || from < len(w.client)-MaxUnread {
		w.t.Fatalf("after %d bytes the next client gets those from %d on", len(w.client), from)
	}
}

const testSize = 20_000

// Processes are killed between any two steps, of theirs or of the kernel, a
// thousand times. Each byte arrives once, in both directions, and again only what a
// client that has left may not have read.
func TestPipe_onceWhateverHappens(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := &world{
		t: t, rnd: rand.New(rand.NewPCG(seed, 0)), ring: RingID{1, 1},
		memory: Memory{Bytes: make([]byte, RegionSize(testSize))},
	}
	if _, err := Format(w.memory, testSize, DropOldest, "x"); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		w.steps = w.rnd.IntN(60)
		w.life()
		l, err := Open(w.memory, testSize, DropOldest, "x")
		if err != nil {
			t.Fatal(err)
		}
		w.taken = int(l.Positions().End)
	}
	if len(w.toGuest) < 10_000 || len(w.client) < 10_000 || w.again == 0 {
		t.Fatalf("%d and %d bytes, %d of them twice, prove little", len(w.toGuest), len(w.client), w.again)
	}
	for name, got := range map[string][]byte{"guest": w.toGuest, "client": w.client} {
		if want := testBytes(0, len(got)); !bytes.Equal(got, want) {
			at := 0
			for got[at] == want[at] {
				at++
			}
			t.Errorf("the %s has other bytes than were sent, from byte %d of %d on", name, at, len(got))
		}
	}
}

// Without its pipe, what had come out of it completely is kept.
func TestInbox_withoutItsPipe(t *testing.T) {
	memory := Memory{Bytes: make([]byte, RegionSize(testSize))}
	again := func() *Inbox {
		l, err := Open(memory, testSize, DropOldest, "")
		if err != nil {
			t.Fatal(err)
		}
		return l.Inbox()
	}
	l, err := Format(memory, testSize, DropOldest, "")
	if err != nil {
		t.Fatal(err)
	}
	b := l.Inbox()
	copy(b.Begin(10), "incom")
	b = again()
	b.Restart()
	if p := b.Next(); len(p) > 0 {
		t.Errorf("bytes from nowhere: %q", p)
	}
	copy(b.Begin(8), "complete")
	b.Ready()
	b.Attach(RingID{1, 2}, 100)
	b.Advance(3)
	b = again()
	b.Restart()
	b.Attach(RingID{1, 2}, 105) // two more were in the ring
	if p := b.Next(); string(p) != "ete" || b.Total() != 5 {
		t.Errorf("%q is next, after %d bytes", p, b.Total())
	}
}

// What is skipped is not delivered by the next process either, which finds it in the
// pipe still, and all of it is counted.
func TestSkip_thenKilled(t *testing.T) {
	memory := Memory{Bytes: make([]byte, RegionSize(testSize))}
	l, err := Format(memory, testSize, DropOldest, "")
	if err != nil {
		t.Fatal(err)
	}
	l.Append(make([]byte, 100), 0)
	l.Advance(len(l.Peek()[:40]), 0)
	l.Load(50)
	l.Append(make([]byte, 1000), 100)
	if n := l.Skip(30); n != 1090 {
		t.Errorf("%d bytes are skipped", n)
	}
	if l, err = Open(memory, testSize, DropOldest, ""); err != nil {
		t.Fatal(err)
	}
	if err := l.Reload(50); !errors.Is(err, ErrUnusable) {
		t.Errorf("a pipe with bytes that were skipped: %v", err)
	}
	l.Unload()
	if p := l.Peek(); p != nil {
		t.Errorf("%d bytes are left", len(p))
	}
	if got := l.Positions(); got != (Positions{End: 1100, Delivered: 10, Skipped: 1090}) {
		t.Errorf("positions %+v", got)
	}
}

// Pipes that do not belong to a log are refused.
func TestPipe_strange(t *testing.T) {
	l := mustNew(t, testSize, DropOldest)
	l.Append(make([]byte, 100), 0)
	l.Peek()
	if err := l.Reload(101); !errors.Is(err, ErrUnusable) {
		t.Errorf("more in the pipe than was shown: %v", err)
	}
	l.Load(50)
	if err := l.Reload(51); !errors.Is(err, ErrUnusable) {
		t.Errorf("more in the pipe than was loaded: %v", err)
	}
	l.Unload()
	if n := len(l.Peek()); n != 100 || l.Loaded() != 0 {
		t.Errorf("%d bytes, %d loaded", n, l.Loaded())
	}
	b := l.Inbox()
	if _, err := b.Resume(InboxSize + 1); !errors.Is(err, ErrUnusable) {
		t.Errorf("more than an inbox: %v", err)
	}
	b.Begin(10)
	if _, err := b.Resume(11); !errors.Is(err, ErrUnusable) {
		t.Errorf("more than began: %v", err)
	}
	b.Ready()
	if _, err := b.Resume(1); !errors.Is(err, ErrUnusable) {
		t.Errorf("more than all: %v", err)
	}
}

package console_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/ring"
	"github.com/xenchan/xenchan/spool"
	"github.com/xenchan/xenchan/xen/xensim"
)

// end is a Conn whose Close is told to the other half, which on a real host is
// the xenbus states' task.
type end struct {
	*console.Conn
	peer *console.Conn
}

func (e end) Close() error {
	err := e.Conn.Close()
	e.peer.HangUp()
	return err
}

func pipe(front, back *console.Conn) (c1, c2 net.Conn, stop func(), err error) {
	return end{front, back}, end{back, front}, func() { front.Close(); back.Close() }, nil
}

func TestConn_heapPages(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		f := newFakes()
		return pipe(f.attachFront(t), f.attachBack(t, nil))
	})
}

func TestConn_embeddedHost(t *testing.T) {
	dir := t.TempDir()
	host, err := xensim.Start(dir, xensim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	dom, err := host.CreateDomain(xensim.DomainConfig{Name: "guest", OnCrash: xensim.CrashPreserve})
	if err != nil {
		t.Fatal(err)
	}
	guest, err := xensim.Connect(t.Context(), dir, dom.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	dom0, err := xensim.Connect(t.Context(), dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dom0.Close()
	t.Run("nettest", func(t *testing.T) {
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			return pipe(joined(t, guest, dom0, dom))
		})
	})
	for _, d := range host.Domains() {
		if d.Ports+d.Grants+d.Mapped+d.ForeignMaps > 0 {
			t.Errorf("after everything was closed, %+v", d)
		}
	}
}

// joined is a ring between two domains of an embedded host.
func joined(t *testing.T, guest, dom0 *xensim.Conn, dom *xensim.Domain) (front, back *console.Conn) {
	t.Helper()
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	shared, err := guest.SharePages(0, 1)
	fail(err)
	unbound, err := guest.AllocUnbound(0)
	fail(err)
	pages, err := dom0.MapGrants(dom.ID, shared.Refs()[0])
	fail(err)
	bound, err := dom0.BindInterdomain(dom.ID, unbound.Port())
	fail(err)
	front, err = console.AttachFrontend(shared, unbound)
	fail(err)
	back, err = console.AttachBackend(pages, bound, nil, nil, spool.RingID{})
	fail(err)
	return front, back
}

func write(t *testing.T, w io.Writer, p []byte) {
	t.Helper()
	if n, err := w.Write(p); n != len(p) || err != nil {
		t.Fatalf("wrote %d of %d bytes: %v", n, len(p), err)
	}
}

func expect(t *testing.T, r io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes %.40q, %v; want %d bytes %.40q", n, got[:n], err, len(want), want)
	}
}

// eventually waits for what has no event of its own.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8)
	}
	return p
}

// The guest may not see room before the sink has its bytes: who is killed in
// between must not lose them.
func TestConn_bytesLeaveTheRingAfterTheSinkHasThem(t *testing.T) {
	f := newFakes()
	sink := newMemory(-1)
	sink.before = func(taken int) {
		if got := int(f.page.index(outCons)); got != taken {
			t.Errorf("the ring was emptied up to %d when the sink had %d bytes", got, taken)
		}
	}
	f.attachBack(t, sink)
	want := pattern(50_000)
	write(t, f.attachFront(t), want)
	eventually(t, "all bytes in the sink", func() bool { return len(sink.bytes()) == len(want) })
	if !bytes.Equal(sink.bytes(), want) {
		t.Error("the sink has other bytes")
	}
}

func TestConn_fullSinkLeavesTheRestInTheRing(t *testing.T) {
	f := newFakes()
	sink := newMemory(10)
	back := f.attachBack(t, sink)
	front := f.attachFront(t)
	want := pattern(100)
	write(t, front, want)
	eventually(t, "10 bytes taken", func() bool { return back.Stats().Received == 10 })
	sink.allow(30)
	eventually(t, "30 more bytes taken", func() bool { return back.Stats().Received == 40 })
	if err := back.Close(); err != nil {
		t.Fatal(err)
	}
	if got := f.page.index(outCons); got != 40 {
		t.Errorf("out_cons is %d", got)
	}

	f.back = f.front.rebind()
	next := newMemory(-1)
	f.attachBack(t, next)
	eventually(t, "the rest", func() bool { return len(next.bytes()) == 60 })
	if got := append(sink.bytes(), next.bytes()...); !bytes.Equal(got, want) {
		t.Errorf("the two sinks have %q", got)
	}
}

// A sink that is full stands in the way of one direction only.
func TestConn_fullSinkDoesNotStopTheOtherWay(t *testing.T) {
	f := newFakes()
	sink := newMemory(0)
	back, front := f.attachBack(t, sink), f.attachFront(t)
	write(t, front, pattern(ring.OutSize))
	want := pattern(50 * ring.InSize)
	back.SetDeadline(time.Now().Add(10 * time.Second))
	sent := make(chan error, 1)
	go func() { _, err := back.Write(want); sent <- err }()
	expect(t, front, want)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	for range ring.OutSize / 100 {
		sink.allow(100)
	}
	sink.allow(100)
	eventually(t, "the rest is taken", func() bool { return bytes.Equal(sink.bytes(), pattern(ring.OutSize)) })
	back.Close()
}

func TestConn_closeLeavesTheRingForTheNext(t *testing.T) {
	f := newFakes()
	back := f.attachBack(t, nil)
	front := f.attachFront(t)
	write(t, front, []byte("out"))
	write(t, back, []byte("in"))
	back.Close()
	write(t, front, []byte("more")) // while nobody is there
	f.back = f.front.rebind()
	back = f.attachBack(t, nil)
	expect(t, back, []byte("outmore"))
	write(t, back, []byte("side"))
	expect(t, front, []byte("inside"))
}

// A byte that has left the ring is one that Read has returned.
func TestConn_closeDuringReadLosesNothing(t *testing.T) {
	f := newFakes()
	front := f.attachFront(t)
	want := pattern(300_000)
	sent := make(chan error, 1)
	go func() { _, err := front.Write(want); sent <- err }()
	var got []byte
	for len(got) < len(want) {
		back := f.attachBack(t, nil)
		time.AfterFunc(time.Duration(rand.IntN(300))*time.Microsecond, func() { back.Close() })
		buf := make([]byte, 700)
		for {
			n, err := back.Read(buf)
			got = append(got, buf[:n]...)
			if err != nil {
				break
			}
		}
		back.Close()
		f.back = f.front.rebind()
	}
	if err := <-sent; err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d of %d bytes came, equal: %v, %v", len(got), len(want), bytes.Equal(got, want), err)
	}
}

// The same when it is the event channel that goes, at the worst moment.
func TestConn_readReturnsWhatItTook(t *testing.T) {
	f := newFakes()
	back := f.attachBack(t, nil)
	write(t, f.attachFront(t), []byte("taken"))
	f.back.broken <- net.ErrClosed
	<-back.Failed()
	expect(t, back, []byte("taken"))
	if _, err := back.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
}

// What a Conn was given it owns, also when it refuses it.
func TestAttach_refusedRingIsClosed(t *testing.T) {
	f := newFakes()
	f.page.set(outProd, ring.OutSize+1)
	page := f.page.mapping()
	c, err := console.AttachBackend(page, f.back, nil, nil, spool.RingID{})
	if c != nil || !errors.Is(err, ring.ErrCorrupt) {
		t.Fatalf("%v, %v", c, err)
	}
	if page.closed.Load() != 1 {
		t.Error("the page is still mapped")
	}
	if err := f.back.Notify(); !errors.Is(err, os.ErrClosed) {
		t.Error("the event channel is still open")
	}
}

// A Linux guest delays a channel that sends it events for nothing.
func TestConn_notifiesOnlyAfterProgress(t *testing.T) {
	f := newFakes()
	back, front := f.attachBack(t, newMemory(-1)), f.attachFront(t)
	for range 50 {
		f.front.Notify() // for nothing
	}
	front.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := front.Read(make([]byte, 8)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if n, err := front.Write(nil); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	eventually(t, "it waits again", func() bool { return len(f.back.pending) == 0 })
	time.Sleep(2 * time.Millisecond)
	if n := f.back.notified.Load(); n != 0 {
		t.Errorf("the backend sent %d events for nothing", n)
	}

	write(t, back, make([]byte, ring.InSize))
	if n, err := back.TryWrite([]byte("no room")); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if n := f.back.notified.Load(); n != 1 {
		t.Errorf("the backend sent %d events for one write and one that did not fit", n)
	}
	before := f.front.notified.Load()
	front.SetReadDeadline(time.Time{})
	expect(t, front, make([]byte, ring.InSize))
	if n := f.front.notified.Load() - before; n != 1 {
		t.Errorf("the frontend sent %d events for one read", n)
	}
	write(t, front, []byte("one burst"))
	eventually(t, "drained", func() bool { return back.Stats().Received == 9 })
	eventually(t, "an event for the room", func() bool { return f.back.notified.Load() == 2 })
}

func TestConn_drainTakesWhatIsLeft(t *testing.T) {
	f := newFakes()
	sink := newMemory(0)
	back := f.attachBack(t, sink)
	write(t, f.attachFront(t), []byte("last words"))
	sink.mu.Lock()
	sink.room = 100 // nobody is told
	sink.mu.Unlock()
	back.HangUp()
	back.Drain()
	if got := sink.bytes(); string(got) != "last words" {
		t.Errorf("the sink has %q", got)
	}
	back.Close()
	back.Drain() // the page is gone: this must not touch it
}

func TestConn_hangUp(t *testing.T) {
	f := newFakes()
	back, front := f.attachBack(t, nil), f.attachFront(t)
	write(t, back, []byte("bye"))
	waiting := make(chan error, 1)
	go func() { _, err := front.Write(make([]byte, 3*ring.OutSize)); waiting <- err }()
	front.HangUp()
	if err := <-waiting; !errors.Is(err, console.ErrHungUp) {
		t.Errorf("Write: %v", err)
	}
	got, err := io.ReadAll(front)
	if string(got) != "bye" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestConn_writeDeadlineTellsHowMuchWent(t *testing.T) {
	f := newFakes()
	back, front := f.attachBack(t, nil), f.attachFront(t)
	back.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	n, err := back.Write(pattern(ring.InSize + 1))
	if n != ring.InSize || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := back.TryWrite([]byte("x")); n != 0 || err != nil {
		t.Errorf("TryWrite after the deadline: %d, %v", n, err)
	}
	back.SetWriteDeadline(time.Time{})
	expect(t, front, pattern(ring.InSize))
	write(t, back, []byte("again"))
	expect(t, front, []byte("again"))
}

func TestConn_brokenEventChannel(t *testing.T) {
	f := newFakes()
	back := f.attachBack(t, nil)
	write(t, f.attachFront(t), []byte("before"))
	f.back.broken <- syscall.EIO
	f.back.Unmask()
	<-back.Failed()
	if !errors.Is(back.Err(), syscall.EIO) {
		t.Errorf("Err: %v", back.Err())
	}
	expect(t, back, []byte("before")) // the ring itself is sound
	if _, err := back.Read(make([]byte, 1)); !errors.Is(err, syscall.EIO) {
		t.Errorf("Read: %v", err)
	}
}

func TestConn_waitWritable(t *testing.T) {
	f := newFakes()
	back, front := f.attachBack(t, newMemory(-1)), f.attachFront(t)
	write(t, back, make([]byte, ring.InSize))
	eventually(t, "it waits for events", func() bool { return f.back.waited.Load() == 2 })
	back.WaitWritable(t.Context(), 10*time.Millisecond) // takes the first, stale value
	begin := time.Now()
	back.WaitWritable(t.Context(), 20*time.Millisecond)
	if time.Since(begin) < 20*time.Millisecond {
		t.Error("it did not wait for room")
	}
	go io.ReadFull(front, make([]byte, 100))
	begin = time.Now()
	back.WaitWritable(t.Context(), 10*time.Second)
	if n, err := back.TryWrite(make([]byte, 200)); n == 0 || err != nil || time.Since(begin) > 5*time.Second {
		t.Errorf("after %v: %d, %v", time.Since(begin), n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	back.WaitWritable(ctx, time.Hour)
}

func TestConn_stats(t *testing.T) {
	f := newFakes()
	back, front := f.attachBack(t, newMemory(-1)), f.attachFront(t)
	if s := back.Stats(); s != (console.Stats{}) {
		t.Errorf("at first: %+v", s)
	}
	write(t, back, []byte("hello"))
	if s := back.Stats(); s != (console.Stats{Sent: 5}) {
		t.Errorf("unread: %+v", s)
	}
	expect(t, front, []byte("hello"))
	write(t, front, []byte("ok"))
	eventually(t, "the answer", func() bool { return back.Stats().Received == 2 })
	if s := back.Stats(); s != (console.Stats{Sent: 5, Received: 2, PeerReads: true}) {
		t.Errorf("read: %+v", s)
	}
	back.Close()
	back.Stats() // must not touch the page
}

// Many users at once, on memory that the race detector sees.
func TestConn_race(t *testing.T) {
	f := newFakes()
	sink := newMemory(-1)
	back, front := f.attachBack(t, sink), f.attachFront(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { front.Write(pattern(20_000)) })
		wg.Go(func() { back.Write(pattern(20_000)) })
		wg.Go(func() {
			for range 200 {
				back.Stats()
				back.Drain()
				front.SetReadDeadline(time.Now().Add(time.Hour))
			}
		})
	}
	got := make([]byte, 60_000)
	if _, err := io.ReadFull(front, got); err != nil {
		t.Error(err)
	}
	wg.Wait()
	eventually(t, "all in the sink", func() bool { return len(sink.bytes()) == 60_000 })
	if want := pattern(20_000); !bytes.Equal(got, bytes.Repeat(want, 3)) || !bytes.Equal(sink.bytes(), bytes.Repeat(want, 3)) {
		t.Error("bytes of one Write were mixed with another's")
	}
}

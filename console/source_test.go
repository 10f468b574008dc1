package console_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/spool"
)

// mortal is a source that keeps what a process killed in a Feed would leave
// behind: after the ring has the bytes, before the inbox says so.
type mortal struct {
	*spool.Inbox
	region []byte
	left   []byte // of the region
	page   *heapPage
	after  []byte // of the page
}

func (m *mortal) Advance(n int) {
	m.left, m.after = slices.Clone(m.region), slices.Clone(m.page.data)
	m.Inbox.Advance(n)
}

// A process that is killed after the ring has bytes and before it has noted that
// is followed by one that sends the rest, and only the rest.
func TestSource_killedInAFeed(t *testing.T) {
	const start = ^uint32(0) - 300 // indices run through 2^32
	id := spool.RingID{Ref: 8, Port: 8}
	f := newFakes()
	for _, at := range []int{inCons, inProd} {
		f.page.set(at, start)
	}
	memory := spool.Memory{Bytes: make([]byte, spool.RegionSize(spoolSize))}
	log, err := spool.Format(memory, spoolSize, spool.DropOldest, "")
	if err != nil {
		t.Fatal(err)
	}
	from := &mortal{Inbox: log.Inbox(), region: memory.Bytes, page: f.page}
	want := pattern(3000)
	copy(from.Begin(len(want)), want)
	from.Ready()
	back, err := console.AttachBackend(f.page.mapping(), f.back, newMemory(-1), from, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := back.Feed(); err != nil {
		t.Fatal(err)
	}
	if n := len(from.Next()); n != 3000-1024 {
		t.Fatalf("%d bytes are left", n)
	}
	back.Close()

	g := newFakes()
	copy(g.page.data, from.after)
	if log, err = spool.Open(spool.Memory{Bytes: from.left}, spoolSize, spool.DropOldest, ""); err != nil {
		t.Fatal(err)
	}
	back, err = console.AttachBackend(g.page.mapping(), g.back, newMemory(-1), log.Inbox(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if g.back.notified.Load() == 0 {
		t.Error("the guest was not told of bytes that the last process may not have told it of")
	}
	front := g.attachFront(t)
	var got []byte
	for len(got) < len(want) {
		if err := back.Feed(); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 5000)
		n, err := front.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p[:n]...)
	}
	if !bytes.Equal(got, want) {
		t.Error("the guest has other bytes than were sent")
	}
	if n := log.Inbox().Total(); n != 3000 {
		t.Errorf("%d bytes are counted", n)
	}
}

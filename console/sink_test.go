package console_test

import (
	"bytes"
	"slices"
	"sync"
	"testing"

	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/spool"
)

const spoolSize = 64 << 10

// moment is what would be left of a process that is killed: the guest's page
// and the memory with the spool.
type moment struct{ page, region []byte }

// doomed is a spool of a process that could be killed at any moment of a drain.
type doomed struct {
	*spool.Log
	page   *heapPage
	region []byte

	mu      sync.Mutex
	moments []moment // guarded by mu
	busy    bool     // between an Append and its Settle; guarded by mu
}

func newDoomed(t *testing.T, page *heapPage) *doomed {
	t.Helper()
	d := &doomed{page: page, region: make([]byte, spool.RegionSize(spoolSize))}
	var err error
	if d.Log, err = spool.Format(spool.Memory{Bytes: d.region}, spoolSize, spool.DropOldest, ""); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *doomed) look(busy bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moments = append(d.moments, moment{slices.Clone(d.page.data), slices.Clone(d.region)})
	d.busy = busy
}

// has says that the spool has this many bytes and nobody looks at the page.
func (d *doomed) has(n int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.busy && d.Positions().End == int64(n)
}

func (d *doomed) Append(p []byte, at uint32) int {
	d.look(true)
	n := d.Log.Append(p, at)
	d.look(true)
	return n
}

func (d *doomed) Settle() {
	d.look(true)
	d.Log.Settle()
	d.look(false)
}

// revive attaches another process to what is left, and gives all that its spool
// has in the end.
func (m moment) revive(t *testing.T, id spool.RingID, page []byte, total int) []byte {
	t.Helper()
	f := newFakes()
	copy(f.page.data, page)
	cons, prod := f.page.index(outCons), f.page.index(outProd)
	log, err := spool.Open(spool.Memory{Bytes: slices.Clone(m.region)}, spoolSize, spool.DropOldest, "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := console.AttachBackend(f.page.mapping(), f.back, log, nil, id)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "an empty ring", func() bool {
		c.Drain()
		return log.Positions().End >= int64(total)
	})
	c.Drain()
	c.Close()
	if got := f.page.index(outCons); got != prod {
		t.Errorf("out_cons is %d, not %d", got, prod)
	}
	if prod != cons && f.back.notified.Load() == 0 {
		t.Error("the guest was not told of the room")
	}
	var all []byte
	for p := log.Peek(); p != nil; p = log.Peek() {
		all = append(all, p...)
		log.Advance(len(p), 0)
	}
	return all
}

// Whenever a process is killed, the next one has every byte, and has it once.
func TestSink_killedInADrain(t *testing.T) {
	const start = ^uint32(0) - 5000 // indices run through 2^32
	id := spool.RingID{Ref: 8, Port: 8}
	f := newFakes()
	f.page.set(outCons, start)
	f.page.set(outProd, start)
	sink := newDoomed(t, f.page)
	want := pattern(20_000)
	back, err := console.AttachBackend(f.page.mapping(), f.back, sink, nil, id)
	if err != nil {
		t.Fatal(err)
	}
	front := f.attachFront(t)
	// The guest writes only while nobody looks at the page.
	for p := want; len(p) > 0; {
		n := min(len(p), 1500)
		write(t, front, p[:n])
		p = p[n:]
		eventually(t, "these bytes in the spool", func() bool { return sink.has(len(want) - len(p)) })
	}
	back.Close()
	if len(sink.moments) < 50 {
		t.Fatalf("only %d moments", len(sink.moments))
	}
	unsettled := 0
	for i, m := range sink.moments {
		left := &heapPage{data: m.page}
		written := int(left.index(outProd) - start)
		if got := m.revive(t, id, m.page, written); !bytes.Equal(got, want[:written]) {
			t.Fatalf("killed at moment %d, the next has %d bytes of %d, or others", i, len(got), written)
		}
		// The guest may have another ring by then, with the same numbers or not.
		fresh := newHeapPage()
		copy(fresh.data[1024:], "a new ring")
		fresh.set(outProd, 10)
		log, err := spool.Open(spool.Memory{Bytes: slices.Clone(m.region)}, spoolSize, spool.DropOldest, "")
		if err != nil {
			t.Fatal(err)
		}
		kept := log.Positions().End
		if got := m.revive(t, id, fresh.data, int(kept)+10); !bytes.Equal(got, append(want[:kept:kept], "a new ring"...)) {
			t.Fatalf("killed at moment %d, a new ring gave %d bytes in all after %d", i, len(got), kept)
		}
		if kept > int64(left.index(outCons)-start) {
			unsettled++
		}
	}
	if unsettled == 0 {
		t.Error("no moment was between the spool and the ring")
	}
}

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/ring"
	"github.com/xenchan/xenchan/spool"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xenstore"
)

// bare is a backend that does nothing but move bytes between the ring and its own
// memory: what is left is the guest, the events and the two processors. It is a
// [console.Sink] and a [console.Source].
type bare struct {
	got   chan int // by each turn
	last  [4]byte  // of what came
	moved int

	mu   sync.Mutex
	ask  []byte // comes first; guarded by mu, as send
	send int    // bytes of chunks after that
	part []byte // one of them
}

func (b *bare) Attach(spool.RingID, uint32, int) int { return 0 }

func (b *bare) Append(p []byte, _ uint32) int {
	b.moved += len(p)
	copy(b.last[:], p[max(0, len(p)-len(b.last)):])
	return len(p)
}

func (b *bare) Settle()               {}
func (b *bare) Room() <-chan struct{} { return nil }

func (b *bare) Flush() {
	b.got <- b.moved
	b.moved = 0
}

// out is the other direction.
type out struct{ *bare }

func (o out) Attach(spool.RingID, uint32) {}

func (o out) Next() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.ask) > 0 {
		return o.ask
	}
	if o.send == 0 {
		return nil
	}
	return o.part[len(o.part)-1-(o.send-1)%len(o.part):] // what is left of this one
}

func (o out) Advance(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.ask) > 0 {
		o.ask = o.ask[n:]
	} else {
		o.send -= n
	}
}

// playRing is the bare backend of the first channel: it makes a round for each line
// that it reads, and prints the rates from the guest and to it.
func playRing(ctx context.Context, dir string) error {
	hv, err := xensim.Connect(ctx, dir, 0)
	if err != nil {
		return err
	}
	defer hv.Close()
	b := &bare{got: make(chan int, 1<<16), part: payload(ring.InSize)}
	conn, err := b.attach(ctx, hv, places(1)[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var size int
		if _, err := fmt.Sscan(lines.Text(), &size); err != nil {
			return err
		}
		from, err := b.round(conn, request(doSend, ring.OutSize, size/ring.OutSize), 0, size)
		if err != nil {
			return err
		}
		to, err := b.round(conn, request(doDrain, ring.InSize, size/ring.InSize), size, 4)
		if err != nil {
			return err
		}
		if got, want := binary.BigEndian.Uint32(b.last[:]), sum(ring.InSize, size/ring.InSize); got != want {
			return fmt.Errorf("checksum of %d bytes at the guest is %08x, want %08x", size, got, want)
		}
		fmt.Println(from, to)
	}
	return nil
}

func (b *bare) attach(ctx context.Context, hv *xensim.Conn, p place) (*console.Conn, error) {
	stream, err := hv.OpenStore(ctx)
	if err != nil {
		return nil, err
	}
	store := xenstore.New(stream)
	defer store.Close()
	refNode, refErr := store.Read(ctx, p.frontend()+"/ring-ref")
	portNode, portErr := store.Read(ctx, p.frontend()+"/port")
	ref, parseErr := xen.ParseGrantRef(refNode)
	port, err := xen.ParsePort(portNode)
	if err := errors.Join(refErr, portErr, parseErr, err); err != nil {
		return nil, err
	}
	pages, err := hv.MapGrants(xen.DomID(p.dom), ref)
	if err != nil {
		return nil, err
	}
	event, err := hv.BindInterdomain(xen.DomID(p.dom), port)
	if err != nil {
		return nil, errors.Join(err, pages.Close())
	}
	return console.AttachBackend(pages, event, b, out{b}, spool.RingID{})
}

// round asks the guest for something, sends what it is to get, and returns the rate of
// the larger of both, in MB/s, once want bytes have come.
func (b *bare) round(conn *console.Conn, ask []byte, send, want int) (float64, error) {
	size := max(send, want)
	begin := time.Now()
	b.mu.Lock()
	b.ask, b.send = ask, send
	b.mu.Unlock()
	if err := conn.Feed(); err != nil {
		return 0, err
	}
	stuck := time.After(patience)
	for want > 0 {
		select {
		case n := <-b.got:
			want -= n
		case <-stuck:
			return 0, errors.New("the guest has stopped")
		}
	}
	return float64(size) / time.Since(begin).Seconds() / 1e6, nil
}

// bareRing measures what a backend could reach that costs nothing.
func bareRing(ctx context.Context, o options, r *report) error {
	host, err := newHost(ctx, 1)
	if err != nil {
		return err
	}
	defer host.close()
	lines, tell, err := host.playOn(ctx, "ring")
	if err != nil {
		return err
	}
	rounds, size := 7, 32<<20
	if o.quick {
		rounds, size = 1, 256<<10
	}
	var from, to []float64
	for range rounds {
		if _, err := fmt.Fprintln(tell, size); err != nil {
			return err
		}
		var f, t float64
		if _, err := fmt.Fscanln(lines, &f, &t); err != nil {
			return fmt.Errorf("the backend's answer: %w", err)
		}
		from, to = append(from, f), append(to, t)
	}
	r.add("ring/from-guest", median(from), "MB/s")
	r.add("ring/to-guest", median(to), "MB/s")
	return nil
}

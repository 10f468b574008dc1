//go:build xen

package benchhost

import (
	"bytes"
	"context"
	"os"
	"sync"
	"time"

	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/internal/rig/xlguest"
	"github.com/xenchan/xenchan/spool"
)

// bare is the host's end of a console that keeps its bytes for nobody: what the guest
// sends is taken in the turn of its event, and what it is sent goes into the ring at once
// or in that turn. No backend can do less.
type bare struct {
	taken
	given
	conn *console.Conn
}

// taken is what the guest has sent; a [console.Sink].
type taken struct {
	mu   sync.Mutex
	held bytes.Buffer  // guarded by mu
	more chan struct{} // capacity 1
}

// given is what the guest is to get; a [console.Source].
type given struct {
	mu   sync.Mutex
	rest []byte // guarded by mu
}

func (t *taken) Attach(spool.RingID, uint32, int) int { return 0 }

func (t *taken) Append(p []byte, _ uint32) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, _ := t.held.Write(p)
	return n
}

func (t *taken) Settle()               {}
func (t *taken) Room() <-chan struct{} { return nil } // it is never full

func (t *taken) Flush() {
	select {
	case t.more <- struct{}{}:
	default:
	}
}

func (t *taken) Read(p []byte) (int, error) {
	for {
		t.mu.Lock()
		n, _ := t.held.Read(p)
		t.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-t.more:
		case <-time.After(xlguest.Patience):
			return 0, os.ErrDeadlineExceeded
		}
	}
}

func (g *given) Attach(spool.RingID, uint32) {}

func (g *given) Next() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rest
}

func (g *given) Advance(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rest = g.rest[n:]
}

// Write returns when the ring has it all.
func (b *bare) Write(p []byte) (int, error) {
	b.given.mu.Lock()
	b.rest = p
	b.given.mu.Unlock()
	for {
		if err := b.conn.Feed(); err != nil {
			return 0, err
		}
		if len(b.Next()) == 0 {
			return len(p), nil
		}
		b.conn.WaitWritable(context.Background(), time.Second)
	}
}

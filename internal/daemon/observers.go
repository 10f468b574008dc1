package daemon

import (
	"sync"
	"sync/atomic"

	"github.com/xenchan/xenchan/spool"
)

const (
	// observerBuffer is how many bytes wait for an observer that is slow.
	observerBuffer = 256 << 10
	// maxObservers bounds those of all channels, and with observerBuffer what they
	// can make the daemon keep.
	maxObservers = 32
)

// observers see what the guest sends and are no clients: nobody waits for them, and
// they take nothing away. The zero value is ready.
type observers struct {
	n atomic.Int32 // how many there are, for who has no time for a lock

	mu    sync.Mutex
	all   map[*observer]bool // guarded by mu, as all below
	ended bool               // the channel is no more
}

// observer is one of them.
type observer struct {
	ready chan struct{} // capacity 1: there is something to take

	at   int64  // position of the first byte in wait; guarded by observers.mu, as all below
	wait []byte // not taken yet
	end  int64  // position behind the last byte that was shown, or would have been
}

// add begins at a position that is not before any byte that was shown.
func (o *observers) add(at func() int64) *observer {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = make(map[*observer]bool)
	}
	x := &observer{ready: make(chan struct{}, 1)}
	o.all[x] = true
	o.n.Add(1)
	x.at = at() // bytes that are shown already wait for mu
	x.end = x.at
	poke(x.ready)
	return x
}

func (o *observers) remove(x *observer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, x)
	o.n.Add(-1)
}

// end says that nothing more comes.
func (o *observers) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	for x := range o.all {
		poke(x.ready)
	}
}

// show gives bytes to all. One whose buffer is full loses them, and sees that in the
// position of what comes next.
func (o *observers) show(p []byte, at int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for x := range o.all {
		next := p
		if at < x.end { // it came when these were in the spool already
			next = p[min(int64(len(p)), x.end-at):]
		}
		x.end = max(x.end, at+int64(len(p)))
		if len(x.wait) == 0 {
			x.at = x.end - int64(len(next))
		}
		x.wait = append(x.wait, next[:min(len(next), observerBuffer-len(x.wait))]...)
		poke(x.ready)
	}
}

// take is what has come since the last call: bytes and where they are, and where
// the next ones will be.
func (o *observers) take(x *observer) (at int64, p []byte, end int64, over bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at, p = x.at, x.wait
	x.at, x.wait = x.end, nil
	return at, p, x.end, o.ended
}

// tap is a channel's spool that shows observers what it takes. It takes bytes from
// one goroutine.
type tap struct {
	*spool.Log
	to *observers
}

// Append is [spool.Log.Append].
func (t tap) Append(p []byte, at uint32) int {
	n := t.Log.Append(p, at)
	if n > 0 && t.to.n.Load() > 0 {
		t.to.show(p[:n], t.Positions().End-int64(n))
	}
	return n
}

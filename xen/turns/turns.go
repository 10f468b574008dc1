// Package turns gives the event channels of a hypervisor their turns, one after
// another in one goroutine. From an event to what follows from it nothing is handed
// over, and a channel that is idle costs no goroutine.
package turns

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/xenchan/xenchan/xen"
)

// Source is where events come from. A key stands for an event channel. Wait is called
// by one goroutine, the rest by any.
type Source interface {
	// Wait fills keys with those that have an event, and returns how many. It returns
	// when there are some, after d unless that is below zero, and after a Wake. It may
	// report events that did not happen.
	Wait(keys []uint32, d time.Duration) (int, error)
	// Mask says that events of this key until now are known of, and that no more are
	// of interest.
	Mask(key uint32) error
	// Unmask lets the next events of these keys in. It is called for each that Wait
	// has reported, sooner or later; an event after that report makes Wait report the
	// key again.
	Unmask(keys []uint32) error
	// Wake makes a Wait return, the one in progress or the next.
	Wake() error
}

// batch is how many events are taken from the source at once.
const batch = 64

// Dispatcher gives the channels of one source their turns. All methods are safe for
// concurrent use, but not from within a turn.
type Dispatcher struct {
	src   Source
	epoch time.Time

	mu       sync.Mutex
	changed  sync.Cond           // the turn of current is over
	channels map[uint32]*Channel // guarded by mu
	resting  []*Channel          // guarded by mu
	current  *Channel            // whose turn it is; guarded by mu
	started  bool                // guarded by mu
	closed   bool                // guarded by mu
	failure  error               // of the source; guarded by mu
	ended    chan struct{}       // closed when the goroutine has ended, if it was started
}

// New makes a Dispatcher, which waits for events once it has a channel.
func New(src Source) *Dispatcher {
	d := &Dispatcher{src: src, epoch: time.Now(), channels: make(map[uint32]*Channel), ended: make(chan struct{})}
	d.changed.L = &d.mu
	return d
}

// Channel is what has turns.
type Channel struct {
	d    *Dispatcher
	key  uint32
	turn xen.Turn // nil before Serve

	reported bool          // the source has reported an event, and was not told to unmask it
	pending  bool          // and this event is still to be served
	masked   bool          // until Unmask
	unmask   bool          // which came before the turn was over
	due      time.Duration // when a rest ends; zero while there is none
	gone     bool
}

// Add adds a channel. What bind makes must not have been in the source before.
func (d *Dispatcher) Add(bind func() (key uint32, err error)) (*Channel, error) {
	d.mu.Lock() // so that an event finds its channel
	defer d.mu.Unlock()
	if d.closed || d.failure != nil {
		return nil, cmp.Or(d.failure, os.ErrClosed)
	}
	key, err := bind()
	if err != nil {
		return nil, err
	}
	c := &Channel{d: d, key: key}
	d.channels[key] = c
	if !d.started {
		d.started = true
		go d.run()
	}
	return c, nil
}

// Close ends all turns. The source may be closed then.
func (d *Dispatcher) Close() error {
	d.mu.Lock()
	started := d.started
	d.closed = true
	d.mu.Unlock()
	if !started {
		return nil
	}
	err := d.src.Wake()
	if err == nil {
		<-d.ended
	}
	return err
}

// run gives turns until Close, or until the source fails.
func (d *Dispatcher) run() {
	defer close(d.ended)
	keys := make([]uint32, batch)
	for {
		wait, open := d.next()
		if !open {
			return
		}
		n, err := d.src.Wait(keys, wait)
		if err != nil {
			d.fail(fmt.Errorf("wait for events: %w", err))
			return
		}
		unmask := keys[:0]
		for _, key := range keys[:n] {
			if d.event(key) {
				unmask = append(unmask, key)
			}
		}
		var now time.Duration
		if d.anyRests() {
			now = d.now()
		}
		for c, late := d.rested(now); c != nil; c, late = d.rested(now) {
			if late {
				_ = d.src.Mask(c.key) // events until now are served by this turn
			}
			if d.give(c, nil) {
				unmask = append(unmask, c.key)
			}
		}
		if len(unmask) > 0 {
			if err := d.src.Unmask(unmask); err != nil {
				d.fail(fmt.Errorf("unmask: %w", err))
				return
			}
		}
	}
}

// next is how long the next rest lasts, below zero if nobody rests.
func (d *Dispatcher) next() (wait time.Duration, open bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait = -1
	if len(d.resting) > 0 {
		now := d.now()
		wait = time.Hour
		for _, c := range d.resting {
			wait = min(wait, max(0, c.due-now))
		}
	}
	return wait, !d.closed
}

func (d *Dispatcher) anyRests() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.resting) > 0
}

// now is a time to compare. It is asked for only when somebody rests: the answer is a
// system call where Xen gives the time. It is never 0, which is no time.
func (d *Dispatcher) now() time.Duration { return time.Since(d.epoch) + 1 }

// event serves an event, and reports whether its key is to be unmasked.
func (d *Dispatcher) event(key uint32) bool {
	d.mu.Lock()
	c := d.channels[key]
	if c == nil { // closed meanwhile
		d.mu.Unlock()
		return false
	}
	c.reported = true
	later := c.turn == nil || c.masked || c.due != 0
	if later {
		c.pending = true
	}
	d.mu.Unlock()
	if later {
		_ = d.src.Mask(key) // at worst it is reported again
		return false
	}
	return d.give(c, nil)
}

// rested is a channel whose rest is over by now, nil if there is none, and whether it
// had an event meanwhile.
func (d *Dispatcher) rested(now time.Duration) (c *Channel, late bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, c := range d.resting {
		if c.due <= now {
			c.due = 0
			d.resting = slices.Delete(d.resting, i, i+1)
			return c, c.reported && c.pending
		}
	}
	return nil, false
}

// give gives a channel a turn, and reports whether its key is to be unmasked.
func (d *Dispatcher) give(c *Channel, failure error) (unmask bool) {
	d.mu.Lock()
	if c.gone {
		d.mu.Unlock()
		return false
	}
	d.current = c
	c.pending, c.unmask = false, false
	d.mu.Unlock()
	rest := c.turn(failure)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current = nil
	d.changed.Broadcast()
	switch {
	case c.gone || failure != nil:
	case rest > 0:
		c.rest(rest)
	case rest < 0 && !c.unmask:
		c.masked = true
	case c.reported:
		c.reported = false
		return true
	}
	return false
}

// rest is called with d.mu held.
func (c *Channel) rest(d time.Duration) {
	c.due = c.d.now() + d
	c.d.resting = append(c.d.resting, c)
}

// fail tells all channels that there are no more events.
func (d *Dispatcher) fail(err error) {
	d.mu.Lock()
	d.failure = err
	var all []*Channel
	for _, c := range d.channels {
		if c.turn != nil {
			all = append(all, c)
		}
	}
	d.mu.Unlock()
	for _, c := range all {
		d.give(c, err)
	}
}

// Serve is that of [xen.EventChannel].
func (c *Channel) Serve(turn xen.Turn) {
	d := c.d
	d.mu.Lock()
	c.turn = turn
	pending, failure := c.pending && !c.gone, d.failure
	if pending {
		c.rest(0)
	}
	d.mu.Unlock()
	switch {
	case failure != nil:
		turn(failure)
	case pending:
		_ = d.src.Wake() // fails only with the source, and then there are no turns
	}
}

// Pend makes an event pending.
func (c *Channel) Pend() {
	c.d.mu.Lock()
	c.pending = true
	c.d.mu.Unlock()
}

// Unmask is that of [xen.EventChannel].
func (c *Channel) Unmask() error {
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case c.gone:
		return os.ErrClosed
	case !c.masked:
		c.unmask = d.current == c
		return nil
	}
	c.masked = false
	if c.pending {
		c.rest(0)
		return d.src.Wake()
	}
	if c.reported {
		c.reported = false
		return d.src.Unmask([]uint32{c.key})
	}
	return nil
}

// Close takes the channel out and waits for the end of its turn, if it has one.
func (c *Channel) Close() {
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if !c.gone {
		c.gone = true
		delete(d.channels, c.key)
	}
	if i := slices.Index(d.resting, c); i >= 0 {
		d.resting = slices.Delete(d.resting, i, i+1)
	}
	for d.current == c {
		d.changed.Wait()
	}
}

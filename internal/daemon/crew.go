package daemon

import (
	"sync"
	"time"
)

// hands is how many devices take their turns at once. What each waits for is mostly
// xenstored, which answers them together.
const hands = 16

const (
	// manyTurns leave something behind that nobody needs any more.
	manyTurns = 100
	// restsAfter is how long no device has a turn until it is believed that none comes.
	restsAfter = time.Second
)

// crew takes the devices' turns: each that has something to do gets one, from a few
// goroutines, which are there only as long as any has.
type crew struct {
	take   func(*device)
	rested func() // called when nobody has a turn for a while, after many turns; nil if nobody cares
	wg     sync.WaitGroup

	mu      sync.Mutex
	waiting []*device // in their order; guarded by mu, as all below
	busy    int       // goroutines that take turns
	turns   int       // since rested was called
	rests   *time.Timer
	over    bool
}

// turn is where a device is; guarded by crew.mu.
type turn uint8

const (
	resting turn = iota
	waiting
	taken
	takenAgain // and another is wanted
)

// call has the device take a turn that begins after the call.
func (c *crew) call(d *device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over:
	case d.turn == resting:
		c.enqueue(d)
		c.hire()
	case d.turn == taken:
		d.turn = takenAgain
	}
}

func (c *crew) enqueue(d *device) {
	d.turn = waiting
	c.waiting = append(c.waiting, d)
}

func (c *crew) hire() {
	if len(c.waiting) > 0 && c.busy < hands {
		c.busy++
		c.wg.Go(c.work)
	}
}

func (c *crew) work() {
	var d *device
	for c.next(&d) {
		c.take(d)
	}
}

// next ends the turn of a device, if there is one, and begins another's.
func (c *crew) next(d **device) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *d != nil {
		(*d).turns++
		c.turns++
		if (*d).turn == takenAgain {
			c.enqueue(*d)
		} else {
			(*d).turn = resting
		}
	}
	if len(c.waiting) == 0 || c.busy > hands {
		c.busy--
		c.rest()
		return false
	}
	*d = c.waiting[0]
	c.waiting[0] = nil
	if c.waiting = c.waiting[1:]; len(c.waiting) == 0 {
		c.waiting = nil
	}
	(*d).turn = taken
	return true
}

// rest is called when a goroutine has nothing more to do.
func (c *crew) rest() {
	if c.rested == nil || c.over || c.busy > 0 || c.turns < manyTurns {
		return
	}
	if c.rests != nil {
		c.rests.Stop()
	}
	turns := c.turns
	c.rests = time.AfterFunc(restsAfter, func() {
		c.mu.Lock()
		still := c.turns == turns && c.busy == 0 && !c.over
		if still {
			c.turns = 0
		}
		c.mu.Unlock()
		if still {
			c.rested()
		}
	})
}

// aside does a part of a turn that may take long: others need not wait for its end.
func (c *crew) aside(f func()) {
	c.mu.Lock()
	c.busy--
	c.hire()
	c.mu.Unlock()
	f()
	c.mu.Lock()
	c.busy++
	c.mu.Unlock()
}

// at is how many turns the device has had, and whether it wants one or has one.
func (c *crew) at(d *device) (turns uint32, busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return d.turns, d.turn != resting
}

// close ends the crew once all devices have ended.
func (c *crew) close() {
	c.mu.Lock()
	c.over = true
	if c.rests != nil {
		c.rests.Stop()
	}
	c.mu.Unlock()
	c.wg.Wait()
}

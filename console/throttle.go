package console

import (
	"time"

	"github.com/xenchan/xenchan/ring"
)

// A terminal of Linux stops its driver when its buffer of 4 KiB is nearly full, and lets it
// go on when that is nearly empty and a kernel thread has come to it. A guest that is sent
// more than its reader takes stands still so for milliseconds, again and again, where one
// that is sent a little less never does. Nothing tells us of that but the ring, which stays
// full. So it is filled again a while after the guest has taken all, and that while is
// shortened until it is too short.
const (
	// standstill is how long a full ring is left alone by a guest that has stopped. Two
	// of them, with few fills in between, are no chance.
	standstill = 2 * time.Millisecond
	apart      = 16 // fills

	firstGap = 400 * time.Microsecond
	leastGap = 20 * time.Microsecond // a guest that keeps up with this needs none
	mostGap  = 1500 * time.Microsecond

	// The gap shrinks by a part with each fill: fast while it is not known what is too
	// short, slowly then, as each try costs a standstill.
	fast, slow = 16, 256
)

// throttle says how long a ring rests after it was filled. The zero value is ready, and
// leaves a guest alone that takes what it is sent.
type throttle struct {
	gap     time.Duration // zero: the guest does not stand still
	short   time.Duration // a gap that was too short; zero while none is known
	resting bool          // the last turn has ended with the gap
	chance  int           // fills in which another standstill brings a gap
}

// after is the rest that is due after a turn.
func (h *throttle) after(did work) time.Duration {
	rested := h.resting
	stood := did.stood >= standstill+h.gap
	switch {
	case h.gap > 0 && rested:
		if did.full && did.taken > 0 {
			h.shrink()
		}
	case h.gap > 0 && stood:
		h.short, h.gap = h.gap, min(h.gap*3/2, mostGap)
	case stood && h.chance > 0:
		*h = throttle{gap: firstGap}
	case stood:
		h.chance = apart
	case did.full && h.chance > 0:
		h.chance--
	}
	// A guest that has stopped says when it goes on, and one that fills its own half
	// quickly does not wait for this one.
	h.resting = did.full && did.taken > 0 && h.gap > 0 && did.got <= ring.OutSize/2
	if !h.resting {
		return 0
	}
	return h.gap
}

// shrink tries a gap that is a little shorter, as the guest has kept up with this one.
func (h *throttle) shrink() {
	if h.short > 0 && h.gap > h.short/2 {
		h.gap -= h.gap / slow
		return
	}
	h.short = 0
	h.gap -= h.gap / fast
	if h.gap < leastGap {
		*h = throttle{}
	}
}

// rest is how long the ring rests after a turn. If that is for the guest's reader, nobody
// else may write meanwhile.
func (c *Conn) rest(did work) time.Duration {
	gap := c.throttle.after(did)
	if gap == 0 {
		return c.pace.after(did)
	}
	c.txMu.Lock()
	c.held = true
	c.txMu.Unlock()
	return gap
}

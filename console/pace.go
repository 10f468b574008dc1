package console

import (
	"time"

	"github.com/xenchan/xenchan/ring"
)

// A guest decides how often it sends events, and each costs the host work. While a
// ring rests its event is masked, so the pace is ours.
const (
	// idleEvents in a row after which nothing had moved are a storm: a guest sends
	// one for bytes, or for room, and a few more when it races with us.
	idleEvents = 8
	idlePause  = time.Millisecond

	// A stream of crumbs is steady turns in a row with so little each, none of which
	// answers what was sent. Linux moves 16 bytes at a time and sends an event for each;
	// a rest after which half of the ring has moved takes as many of them as one, and the
	// guest never waits. If it did wait, that guest is not tried again for a while.
	crumb     = 64
	steady    = 4
	firstRest = 20 * time.Microsecond
	longRest  = 400 * time.Microsecond
	distrust  = 256 // turns
)

// work is what one turn has moved.
type work struct {
	got      int           // bytes from the other half
	taken    int           // bytes that it has taken
	stood    time.Duration // how long there was no room for it before that
	more     bool          // there are more for it than had room
	full     bool          // there is no room left for it
	answered bool          // it was sent all there was since the last turn
}

// pace says how long a ring rests after each turn. The zero value is ready.
type pace struct {
	idle int           // events in a row without effect
	held bool          // the last turn ended with a rest for them
	busy int           // turns in a row of a stream of crumbs; below zero while it is distrusted
	rest time.Duration // of a stream
}

// after is the rest that is due after a turn, mostly none.
func (p *pace) after(did work) time.Duration {
	if did.got == 0 && did.taken == 0 {
		p.busy, p.rest = min(p.busy, 0), 0
		if p.held { // a look after the rest, not an event
			p.held = false
			return 0
		}
		if p.idle++; p.idle < idleEvents {
			return 0
		}
		p.held = true
		return idlePause
	}
	p.idle, p.held = 0, false
	switch {
	case did.answered:
		p.busy = min(p.busy, 0)
		p.rest = 0
	case did.got > ring.OutSize*3/4 || did.more && did.taken > ring.InSize*7/8: // it waited for us
		if p.rest > 0 {
			p.busy = -distrust
		}
		p.rest /= 2
		if p.rest < firstRest {
			p.rest = 0
		}
	case p.rest > 0 && did.got < ring.OutSize/4 && did.taken < ring.InSize/2:
		p.rest = min(2*p.rest, longRest)
	case p.rest == 0 && did.got <= crumb && did.taken <= crumb:
		if p.busy++; p.busy >= steady {
			p.rest = firstRest
		}
	case p.rest == 0:
		p.busy = min(p.busy, 0)
	}
	return p.rest
}

// A guest also decides how often its nodes change, and each look at them costs
// xenstored work. More looks than looksBurst in looksTime wait for its end.
const (
	looksBurst = 16
	looksTime  = 100 * time.Millisecond
)

// looks says when the nodes may be looked at again. The zero value is ready.
type looks struct {
	n     int // in this period
	since time.Time
}

// before is the pause that is due before a look, mostly none.
func (l *looks) before(now time.Time) time.Duration {
	if now.Sub(l.since) >= looksTime {
		l.n, l.since = 0, now
	}
	l.n++
	if l.n <= looksBurst {
		return 0
	}
	return l.since.Add(looksTime).Sub(now)
}

package console

import "time"

// A guest decides how often it sends events, and each costs the host work. An event
// is masked until we unmask it, so the pace is ours.
const (
	// idleEvents in a row after which nothing had moved are a storm: a guest sends
	// one for bytes, or for room, and a few more when it races with us.
	idleEvents = 8
	idlePause  = time.Millisecond

	// A turn is how long a busy ring is served before others must get a chance:
	// the Go scheduler looks for their events only when somebody sleeps.
	turnEvents = 256
	turnTime   = time.Millisecond
	turnPause  = 500 * time.Microsecond

	// parked is a wait in which others had their chance.
	parked = 20 * time.Microsecond
)

// pace says when the goroutine that serves a ring has to pause. The zero value is ready.
type pace struct {
	idle   int       // events in a row without effect
	events int       // in this turn
	since  time.Time // the turn's begin
}

// rested takes note of the time between an event that was served and the next.
func (p *pace) rested(served, next time.Time) {
	if next.Sub(served) >= parked || p.since.IsZero() {
		p.events, p.since = 0, next
	}
}

// after is the pause that is due after an event, mostly none.
func (p *pace) after(progress bool, now time.Time) time.Duration {
	p.events++
	p.idle++
	if progress {
		p.idle = 0
	}
	switch {
	case p.idle >= idleEvents:
		return idlePause
	case p.events >= turnEvents && now.Sub(p.since) >= turnTime:
		return turnPause
	}
	return 0
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

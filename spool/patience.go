package spool

import "time"

// patience lets the guest wait for a reader that is slower, within bounds. A guest
// that waits stands still, with interrupts off if it is Linux, so that it never waits
// long for a reader that makes no progress, and never more than half of the time.
type patience struct {
	most time.Duration // for one step of the reader; 0: the guest never waits

	waiting bool
	credit  time.Duration // how long the guest may wait now; at most most
	at      time.Time     // when credit was right
	stepped bool          // the reader took bytes since moved was set
	moved   time.Time     // when that was first asked for
	again   *time.Timer   // wakes the writer, who is to ask again; nil while none ever was
}

// Wait sets how long a full log that drops its oldest bytes holds back the guest first
// while its reader makes progress: most is the time from one step of the reader to its
// next. Over a longer time the guest is held back for half of it at the most. It must
// be called before the log is used.
func (l *Log) Wait(most time.Duration) {
	l.patience = patience{most: most, credit: most, at: time.Now()}
}

// wait says whether the guest is to wait now; room is how it is woken.
func (p *patience) wait(room *bell) bool {
	if p.most == 0 {
		return false
	}
	now := time.Now()
	p.count(now)
	if p.stepped {
		p.stepped, p.moved = false, now
	}
	left := min(p.credit, p.most-now.Sub(p.moved))
	p.waiting = left > 0
	switch {
	case !p.waiting:
	case p.again == nil:
		p.again = time.AfterFunc(left, room.ring)
	default:
		p.again.Reset(left)
	}
	return p.waiting
}

// goOn says that the guest does not wait any more.
func (p *patience) goOn() {
	if p.waiting {
		p.count(time.Now())
		p.waiting = false
	}
}

func (p *patience) count(now time.Time) {
	passed := now.Sub(p.at)
	if p.waiting {
		passed = -passed
	}
	p.credit = max(0, min(p.most, p.credit+passed))
	p.at = now
}

// readerMoved is on the way of each byte, and asks for no time: that is for when the
// guest is to wait.
func (p *patience) readerMoved() { p.stepped = true }

package spool

import (
	"testing"
	"testing/synctest"
	"time"
)

const (
	testWait  = 250 * time.Millisecond
	testSpool = 256 << 10
)

// pacedGuest offers n bytes as they come, one kilobyte each step, and waits like
// an event channel's goroutine does when the log takes fewer. It returns how long it
// waited at the most at a time, and in all.
func pacedGuest(l *Log, n int, step time.Duration) (longest, all time.Duration) {
	p := make([]byte, 1024)
	for sent := 0; sent < n; {
		began := time.Now()
		for took := l.Append(p, 0); took < len(p); took += l.Append(p[took:], 0) {
			<-l.Room()
		}
		waited := time.Since(began)
		longest, all = max(longest, waited), all+waited
		sent += len(p)
		time.Sleep(step)
	}
	return longest, all
}

// pacedClient takes n bytes each step, for as long as it is told.
func pacedClient(l *Log, n int, step time.Duration, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(step):
		}
		for left := n; left > 0; {
			got := min(left, len(l.Peek()))
			if got == 0 {
				break
			}
			l.Advance(got, 0)
			left -= got
		}
	}
}

// A guest that is faster than its client loses nothing as long as the client is not
// slower than half as fast, and is not held up for long otherwise.
func TestWait(t *testing.T) {
	const guest = 1 << 20 // bytes a second
	for _, c := range []struct {
		name    string
		client  int // bytes each step
		step    time.Duration
		loses   bool
		longest time.Duration
	}{
		{"faster", 8 << 10, 5 * time.Millisecond, false, 0},
		{"as fast as three quarters", 8 << 10, 10 * time.Millisecond, false, 20 * time.Millisecond},
		{"the same in large steps", 150 << 10, 190 * time.Millisecond, false, testWait},
		{"as fast as a quarter", 8 << 10, 30 * time.Millisecond, true, testWait},
		{"in steps too far apart", 300 << 10, 300 * time.Millisecond, true, testWait},
		{"not at all", 0, time.Hour, true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := mustNew(t, testSpool, DropOldest)
				l.Wait(testWait)
				stop := make(chan struct{})
				go pacedClient(l, c.client, c.step, stop)
				const total = 8 << 20
				longest, all := pacedGuest(l, total, time.Second/(guest/1024))
				close(stop)
				time.Sleep(c.step)
				p := l.Positions()
				t.Logf("dropped %d, waited %v in all of %v, at most %v", p.Dropped, all, total/guest*time.Second+all, longest)
				if (p.Dropped > 0) != c.loses || p.End != total {
					t.Errorf("%+v", p)
				}
				if longest > c.longest || all > total/guest*time.Second+testWait {
					t.Errorf("the guest waited for %v at a time, and for %v in all", longest, all)
				}
			})
		})
	}
}

// A client that stops holds up the guest once, and not again.
func TestWait_clientStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustNew(t, testSpool, DropOldest)
		l.Wait(testWait)
		pacedGuest(l, testSpool+2048, 0)
		l.Advance(len(l.Peek()), 0)
		longest, all := pacedGuest(l, 1<<20, 0)
		if longest != testWait || all != longest {
			t.Errorf("the guest waited for %v at a time, and for %v in all", longest, all)
		}
	})
}

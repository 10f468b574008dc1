package xentest

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/xen"
)

func (s *suite) events(t *testing.T) {
	t.Run("Bind_isPendingAtOnce", s.bindIsPending)
	t.Run("Bind_refused", s.bindRefused)
	t.Run("Bind_againAfterClose", s.bindAgain)
	t.Run("Notify_bothWays", s.notifyBothWays)
	t.Run("Notify_withoutPeer", s.notifyWithoutPeer)
	t.Run("Notify_coalesces", s.notifyCoalesces)
	t.Run("Mask_holdsEventsBack", s.maskHolds)
	t.Run("Unmask_whenNotMasked", s.unmaskTwice)
	t.Run("Close_wakesWait", s.closeWakes)
	t.Run("Close_byThePeer", s.closeByPeer)
	t.Run("Ports_many", s.manyPorts)
	t.Run("Storm_losesNothing", s.storm)
	t.Run("Storm_duringClose", s.stormDuringClose)
}

func (s *suite) bindIsPending(t *testing.T) {
	front := s.alloc(t)
	frontWait := waiting(front)
	back := s.bind(t, front.Port())
	if front.Port() == 0 || back.Port() == 0 {
		t.Errorf("ports are %v and %v; 0 is never valid", front.Port(), back.Port())
	}
	take(t, back)
	stillWaiting(t, frontWait)
	stillWaiting(t, waiting(back)) // it was one event, not more
}

func (s *suite) bindRefused(t *testing.T) {
	front := s.alloc(t)
	_ = s.bind(t, front.Port())
	_, err := s.Back.BindInterdomain(s.FrontID, front.Port())
	wantErrno(t, "second bind", err, syscall.EINVAL)

	gone := s.alloc(t)
	_ = gone.Close()
	_, err = s.Back.BindInterdomain(s.FrontID, gone.Port())
	wantErrno(t, "bind to a closed port", err, syscall.EINVAL)

	other, err := s.Front.AllocUnbound(noDomain)
	if err != nil {
		t.Fatalf("AllocUnbound for another domain: %v", err)
	}
	defer other.Close()
	_, err = s.Back.BindInterdomain(s.FrontID, other.Port())
	wantErrno(t, "bind to a port for another domain", err, syscall.EINVAL)

	_, err = s.Back.BindInterdomain(s.FrontID, 1<<31)
	wantErrno(t, "bind to an impossible port", err, syscall.EINVAL)
	_, err = s.Back.BindInterdomain(noDomain, front.Port())
	wantErrno(t, "bind to a domain that does not exist", err, syscall.ESRCH)
}

func (s *suite) bindAgain(t *testing.T) {
	front := s.alloc(t)
	for range 3 {
		back := s.bind(t, front.Port())
		take(t, back)
		notify(t, back)
		take(t, front)
		notify(t, front)
		take(t, back)
		if err := back.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		notify(t, front) // reaches nobody, and the next binding is one event
	}
	back := s.bind(t, front.Port())
	take(t, back)
	stillWaiting(t, waiting(back))
}

func (s *suite) notifyBothWays(t *testing.T) {
	front, back := s.pair(t)
	for range 100 {
		notify(t, front)
		take(t, back)
		notify(t, back)
		take(t, front)
	}
	done := waiting(back) // also when the waiter was there first
	stillWaiting(t, done)
	notify(t, front)
	if err := result(t, done); err != nil {
		t.Fatalf("Wait: %v", err)
	}
}

func (s *suite) notifyWithoutPeer(t *testing.T) {
	front := s.alloc(t)
	done := waiting(front)
	notify(t, front)
	stillWaiting(t, done)
	back := s.bind(t, front.Port())
	take(t, back)
	_ = back.Close()
	notify(t, front)
	stillWaiting(t, done)
}

// Events do not queue. Xen's driver takes the first of a burst out of Xen and
// masks, so one more may be pending behind it, but never a third.
func (s *suite) notifyCoalesces(t *testing.T) {
	front, back := s.pair(t)
	for range 1000 {
		notify(t, front)
	}
	take(t, back)
	second := waiting(back)
	select {
	case err := <-second:
		if err != nil {
			t.Fatalf("Wait: %v", err)
		}
		unmask(t, back)
		stillWaiting(t, waiting(back))
	case <-time.After(quiet):
	}
}

func (s *suite) maskHolds(t *testing.T) {
	front, back := s.pair(t)
	notify(t, front)
	wait(t, back)
	notify(t, front)
	done := waiting(back)
	stillWaiting(t, done)
	unmask(t, back)
	if err := result(t, done); err != nil {
		t.Fatalf("Wait after Unmask: %v", err)
	}
	// Without an event in between, Unmask brings none.
	unmask(t, back)
	stillWaiting(t, waiting(back))
}

func (s *suite) unmaskTwice(t *testing.T) {
	front, back := s.pair(t)
	unmask(t, back)
	done := waiting(back)
	stillWaiting(t, done)
	unmask(t, back) // also while a Wait is in progress
	notify(t, front)
	if err := result(t, done); err != nil {
		t.Fatalf("Wait: %v", err)
	}
	notify(t, front)
	done = waiting(back)
	stillWaiting(t, done) // the extra ones were not saved up
	unmask(t, back)
	if err := result(t, done); err != nil {
		t.Fatalf("Wait after Unmask: %v", err)
	}
}

func (s *suite) closeWakes(t *testing.T) {
	front, back := s.pair(t)
	open := waiting(back)
	stillWaiting(t, open)
	if err := back.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	wantClosed(t, "Wait during Close", result(t, open))
	wantClosed(t, "Wait after Close", result(t, waiting(back)))
	_ = back.Close() // must do no harm

	notify(t, front)
	again := s.bind(t, front.Port())
	wait(t, again)
	masked := waiting(again)
	stillWaiting(t, masked)
	_ = again.Close()
	wantClosed(t, "Wait on a masked port during Close", result(t, masked))
}

func (s *suite) closeByPeer(t *testing.T) {
	front, back := s.pair(t)
	done := waiting(back)
	if err := front.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	notify(t, back)       // silent
	stillWaiting(t, done) // nobody tells us
	if err := back.Close(); err != nil {
		t.Fatalf("Close of the end that is left: %v", err)
	}
	wantClosed(t, "Wait", result(t, done))
}

func (s *suite) manyPorts(t *testing.T) {
	const n = 64
	var fronts, backs []*Waiter
	seen := make(map[xen.Port]bool)
	for range n {
		f, b := s.pair(t)
		if seen[f.Port()] {
			t.Errorf("port %v was allocated twice", f.Port())
		}
		seen[f.Port()] = true
		fronts, backs = append(fronts, f), append(backs, b)
	}
	var waits []<-chan error
	for _, b := range backs {
		waits = append(waits, waiting(b))
	}
	for i, f := range fronts {
		if i%2 == 0 {
			notify(t, f)
		}
	}
	for i, w := range waits {
		if i%2 == 0 {
			if err := result(t, w); err != nil {
				t.Fatalf("Wait on port %d: %v", i, err)
			}
		}
	}
	stillWaiting(t, waits[1])
	for i, w := range waits {
		if i%2 == 1 {
			notify(t, fronts[i])
			if err := result(t, w); err != nil {
				t.Fatalf("Wait on port %d: %v", i, err)
			}
		}
	}
}

// Whoever makes progress and then notifies is always seen, whatever else goes
// on: the waiter ends only if it sees the last step of every notifier.
func (s *suite) storm(t *testing.T) {
	const notifiers, steps = 4, 2000
	front, back := s.pair(t)
	var progress [2]atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	for side, ch := range []*Waiter{front, back} {
		for range notifiers {
			wg.Go(func() {
				for range steps {
					progress[side].Add(1)
					if err := ch.Notify(); err != nil {
						t.Errorf("Notify: %v", err)
						return
					}
				}
			})
		}
	}
	ends := make(chan error, 2)
	for side, ch := range []*Waiter{back, front} {
		go func() {
			for progress[side].Load() < notifiers*steps {
				err := ch.Wait()
				if err == nil {
					err = ch.Unmask()
				}
				if err != nil {
					ends <- err
					return
				}
			}
			ends <- nil
		}()
	}
	for range 2 {
		if err := result(t, ends); err != nil {
			t.Errorf("waiter: %v", err)
		}
	}
}

func (s *suite) stormDuringClose(t *testing.T) {
	front := s.alloc(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = front.Notify()
				}
			}
		})
	}
	for range 20 {
		back := s.bind(t, front.Port())
		take(t, back)
		take(t, back)
		if err := back.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		wantClosed(t, "Wait after Close", result(t, waiting(back)))
	}
	_ = front.Close()
	close(stop)
	wg.Wait()
}

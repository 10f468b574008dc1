// Package xentest is the suite that every [xen.Hypervisor] must pass, run on a
// pair of them. It knows nothing of how they are made, and depends on no time
// but the one after which it gives up.
package xentest

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/xen"
)

const (
	// patience is when something that must happen is taken never to.
	patience = 4 * time.Minute
	// quiet is how long something that must not happen is waited for. A slow
	// machine may hide a fault here, but never shows one that is not there.
	quiet = 100 * time.Millisecond
	// noDomain is a domid that no host reaches.
	noDomain = xen.FirstReserved - 1
)

// Harness is the pair under test. Both may be of one domain, domain 0 of a real
// host for instance, which then talks to itself.
type Harness struct {
	Front   xen.Hypervisor // allocates ports and shares pages
	FrontID xen.DomID
	Back    xen.Hypervisor // binds and maps them
	BackID  xen.DomID

	// RestartBack closes Back and returns a new Hypervisor of the same
	// domain, as when a backend starts again. Nil if that cannot be done;
	// then what needs it is not run.
	RestartBack func(t *testing.T) xen.Hypervisor
}

// Run runs the suite. The Hypervisors stay open, Back as RestartBack returned
// it last.
func Run(t *testing.T, h Harness) {
	s := &suite{h}
	t.Run("Event", s.events)
	t.Run("Grant", s.grants)
	t.Run("Store", s.store)
	if h.RestartBack != nil {
		t.Run("Restart", s.restart)
	}
}

type suite struct{ Harness }

// alloc allocates a port of the front for the back.
func (s *suite) alloc(t *testing.T) *Waiter {
	t.Helper()
	ch, err := s.Front.AllocUnbound(s.BackID)
	if err != nil {
		t.Fatalf("AllocUnbound: %v", err)
	}
	w := Wait(ch)
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// bind binds the back to a port of the front.
func (s *suite) bind(t *testing.T, port xen.Port) *Waiter {
	t.Helper()
	ch, err := s.Back.BindInterdomain(s.FrontID, port)
	if err != nil {
		t.Fatalf("BindInterdomain: %v", err)
	}
	w := Wait(ch)
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// pair is a bound event channel without events pending.
func (s *suite) pair(t *testing.T) (front, back *Waiter) {
	t.Helper()
	front = s.alloc(t)
	back = s.bind(t, front.Port())
	take(t, back) // the one of the binding
	return front, back
}

func (s *suite) share(t *testing.T, n int) xen.SharedPages {
	t.Helper()
	p, err := s.Front.SharePages(s.BackID, n)
	if err != nil {
		t.Fatalf("SharePages(%d): %v", n, err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func (s *suite) mapped(t *testing.T, refs ...xen.GrantRef) xen.Pages {
	t.Helper()
	p, err := s.Back.MapGrants(s.FrontID, refs...)
	if err != nil {
		t.Fatalf("MapGrants: %v", err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// waiting is a Wait in progress.
func waiting(ch *Waiter) <-chan error {
	done := make(chan error, 1)
	go func() { done <- ch.Wait() }()
	return done
}

// result waits for something in progress.
func result(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatal("it never returned")
		return nil
	}
}

// wait waits for one event and leaves the port masked.
func wait(t *testing.T, ch *Waiter) {
	t.Helper()
	if err := result(t, waiting(ch)); err != nil {
		t.Fatalf("Wait: %v", err)
	}
}

// take waits for one event and lets the next one in.
func take(t *testing.T, ch *Waiter) {
	t.Helper()
	wait(t, ch)
	unmask(t, ch)
}

func notify(t *testing.T, ch *Waiter) {
	t.Helper()
	if err := ch.Notify(); err != nil {
		t.Fatalf("Notify: %v", err)
	}
}

func unmask(t *testing.T, ch *Waiter) {
	t.Helper()
	if err := ch.Unmask(); err != nil {
		t.Fatalf("Unmask: %v", err)
	}
}

// stillWaiting checks that a Wait in progress goes on.
func stillWaiting(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Fatalf("Wait returned %v without an event", err)
	case <-time.After(quiet):
	}
}

func wantErrno(t *testing.T, what string, err error, want syscall.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error is %v, want %v", what, err, want)
	}
}

func wantClosed(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("%s: error is %v, want os.ErrClosed", what, err)
	}
}

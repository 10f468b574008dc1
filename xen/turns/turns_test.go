package turns

import (
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/xen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a Source whose events a test makes. As with Xen's device, a key that was
// reported is masked.
type source struct {
	mu      sync.Mutex
	events  []uint32
	broken  error
	masks   []uint32
	unmasks []uint32
	woken   chan struct{} // capacity 1
}

func newSource() *source { return &source{woken: make(chan struct{}, 1)} }

func (s *source) event(keys ...uint32) {
	s.mu.Lock()
	s.events = append(s.events, keys...)
	s.mu.Unlock()
	_ = s.Wake()
}

func (s *source) Wait(keys []uint32, d time.Duration) (int, error) {
	if n, err := s.take(keys); n > 0 || err != nil || d == 0 {
		return n, err
	}
	var late <-chan time.Time
	if d > 0 {
		late = time.After(d)
	}
	select {
	case <-s.woken:
	case <-late:
	}
	return s.take(keys)
}

func (s *source) take(keys []uint32) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := copy(keys, s.events)
	s.events = s.events[n:]
	return n, s.broken
}

func (s *source) Mask(key uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.masks = append(s.masks, key)
	return nil
}

func (s *source) Unmask(keys []uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unmasks = append(s.unmasks, keys...)
	return nil
}

func (s *source) Wake() error {
	select {
	case s.woken <- struct{}{}:
	default:
	}
	return nil
}

func (s *source) unmasked() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.unmasks)
}

// start is a dispatcher that ends with the test.
func start(t *testing.T) (*source, *Dispatcher) {
	t.Helper()
	s := newSource()
	d := New(s)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, d
}

// served is a channel whose turns are counted, and rest as the test says.
type served struct {
	*Channel
	n    atomic.Int64
	rest atomic.Int64
	errs chan error
}

func (s *served) turn(err error) time.Duration {
	if err != nil {
		s.errs <- err
	}
	s.n.Add(1)
	return time.Duration(s.rest.Load())
}

func add(t *testing.T, d *Dispatcher, key uint32) *served {
	t.Helper()
	c, err := d.Add(func() (uint32, error) { return key, nil })
	if err != nil {
		t.Fatal(err)
	}
	return &served{Channel: c, errs: make(chan error, 1)}
}

// turns waits until a channel has had so many turns, and a moment for one too many.
func (s *served) turns(t *testing.T, want int64) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); s.n.Load() < want && time.Now().Before(end); {
		time.Sleep(100 * time.Microsecond)
	}
	time.Sleep(10 * time.Millisecond)
	if got := s.n.Load(); got != want {
		t.Errorf("%d turns, want %d", got, want)
	}
}

func TestTurn_afterEachEvent(t *testing.T) {
	s, d := start(t)
	a, b := add(t, d, 1), add(t, d, 2)
	a.Serve(a.turn)
	b.Serve(b.turn)
	s.event(1, 2, 77) // nobody is 77
	a.turns(t, 1)
	b.turns(t, 1)
	s.event(1)
	a.turns(t, 2)
	b.turns(t, 1)
	if got := s.unmasked(); !slices.Equal(got, []uint32{1, 2, 1}) {
		t.Errorf("unmasked %v", got)
	}
}

// What came before anybody served it is one event.
func TestServe_late(t *testing.T) {
	s, d := start(t)
	a, b, c := add(t, d, 1), add(t, d, 2), add(t, d, 3)
	s.event(1, 1)
	b.Pend()
	c.Serve(c.turn)
	s.event(3)
	c.turns(t, 1) // so the others' are taken too
	for _, x := range []*served{a, b} {
		x.Serve(x.turn)
		x.turns(t, 1)
	}
	if got := s.unmasked(); !slices.Equal(got, []uint32{3, 1}) {
		t.Errorf("unmasked %v", got)
	}
}

// While a channel rests the others have their turns; then it has one, whether there was
// an event or not.
func TestRest(t *testing.T) {
	s, d := start(t)
	a, b := add(t, d, 1), add(t, d, 2)
	const rest = 300 * time.Millisecond
	a.rest.Store(int64(rest))
	a.Serve(a.turn)
	b.Serve(b.turn)
	begin := time.Now()
	s.event(1)
	a.turns(t, 1)
	a.rest.Store(0)
	s.event(1, 2)
	b.turns(t, 1)
	if took := time.Since(begin); took < rest && a.n.Load() != 1 {
		t.Errorf("a turn after %v", took)
	} else if took > rest {
		t.Logf("the machine is too slow to tell: %v", took)
	}
	if got := s.unmasked(); slices.Contains(got, 1) {
		t.Errorf("unmasked %v", got)
	}
	a.turns(t, 2) // one for the rest and the event
	if took := time.Since(begin); took < rest {
		t.Errorf("it rested for %v", took)
	}
	if got := s.unmasked(); !slices.Equal(got, []uint32{2, 1}) {
		t.Errorf("unmasked %v", got)
	}
}

func TestMasked(t *testing.T) {
	s, d := start(t)
	a := add(t, d, 1)
	a.rest.Store(int64(xen.Masked))
	a.Serve(a.turn)
	for n := int64(1); n < 4; n += 2 {
		s.event(1)
		a.turns(t, n)
		s.event(1)
		a.turns(t, n)
		if err := a.Unmask(); err != nil {
			t.Fatal(err)
		}
		a.turns(t, n+1) // the one that came meanwhile
		if err := errors.Join(a.Unmask(), a.Unmask()); err != nil {
			t.Fatal(err)
		}
		a.turns(t, n+1)
		if got := s.unmasked(); len(got) != int(n+1)/2 {
			t.Errorf("unmasked %v", got)
		}
	}
}

// Who is told by a turn may call Unmask before it is over.
func TestUnmask_duringTheTurn(t *testing.T) {
	s, d := start(t)
	a := add(t, d, 1)
	told, unmasked := make(chan struct{}), make(chan struct{})
	a.Serve(func(error) time.Duration {
		if a.n.Add(1) == 1 {
			close(told)
			<-unmasked
		}
		return xen.Masked
	})
	s.event(1)
	<-told
	if err := a.Unmask(); err != nil {
		t.Fatal(err)
	}
	close(unmasked)
	a.turns(t, 1)
	s.event(1)
	a.turns(t, 2)
	s.event(1)
	a.turns(t, 2)
}

// Close waits for a turn in progress, and there is none after it.
func TestClose(t *testing.T) {
	s, d := start(t)
	a := add(t, d, 1)
	entered, leave := make(chan struct{}), make(chan struct{})
	var after atomic.Bool
	a.Serve(func(error) time.Duration {
		close(entered)
		<-leave
		after.Store(true)
		return time.Millisecond
	})
	s.event(1)
	<-entered
	time.AfterFunc(20*time.Millisecond, func() { close(leave) })
	a.Close()
	if !after.Load() {
		t.Error("Close returned during a turn")
	}
	s.event(1)
	time.Sleep(10 * time.Millisecond)
	a.Close() // must do no harm
	if err := a.Unmask(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Unmask: %v", err)
	}

	resting := add(t, d, 2)
	resting.rest.Store(int64(10 * time.Millisecond))
	resting.Serve(resting.turn)
	s.event(2)
	for resting.n.Load() == 0 {
		time.Sleep(100 * time.Microsecond)
	}
	resting.Close()
	n := resting.n.Load()
	time.Sleep(30 * time.Millisecond)
	if resting.n.Load() != n {
		t.Error("a turn after Close")
	}
}

// When no more events can be had, everybody learns of it, who comes later too.
func TestSource_fails(t *testing.T) {
	s, d := start(t)
	a, b := add(t, d, 1), add(t, d, 2)
	a.Serve(a.turn)
	broken := errors.New("broken")
	s.mu.Lock()
	s.broken = broken
	s.mu.Unlock()
	_ = s.Wake()
	if err := <-a.errs; !errors.Is(err, broken) {
		t.Errorf("a turn with %v", err)
	}
	b.Serve(b.turn)
	if err := <-b.errs; !errors.Is(err, broken) {
		t.Errorf("a turn with %v", err)
	}
	if _, err := d.Add(func() (uint32, error) { return 3, nil }); !errors.Is(err, broken) {
		t.Errorf("Add: %v", err)
	}
}

func TestDispatcher_close(t *testing.T) {
	s := newSource()
	d := New(s)
	a := add(t, d, 1)
	a.Serve(a.turn)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	s.event(1)
	time.Sleep(10 * time.Millisecond)
	if a.n.Load() != 0 {
		t.Error("a turn after Close")
	}
	if _, err := d.Add(func() (uint32, error) { return 2, nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Add: %v", err)
	}
	if err := errors.Join(d.Close(), New(newSource()).Close()); err != nil {
		t.Error(err)
	}
}

// Events, rests, Unmask and Close from all sides: no event is without a turn after it.
func TestDispatcher_concurrently(t *testing.T) {
	s, d := start(t)
	var all sync.WaitGroup
	for key := range uint32(8) {
		all.Go(func() {
			for range 50 {
				a := add(t, d, key)
				var sent, seen atomic.Int64
				a.Serve(func(error) time.Duration {
					seen.Store(sent.Load())
					return []time.Duration{0, xen.Masked, time.Microsecond}[key%3]
				})
				for range 20 {
					want := sent.Add(1)
					s.event(key)
					for end := time.Now().Add(10 * time.Second); seen.Load() < want; time.Sleep(10 * time.Microsecond) {
						if time.Now().After(end) {
							t.Errorf("channel %d: an event without a turn", key)
							return
						}
						_ = a.Unmask()
					}
					if key%3 == 2 { // it never rests from resting
						break
					}
				}
				a.Close()
			}
		})
	}
	all.Wait()
}

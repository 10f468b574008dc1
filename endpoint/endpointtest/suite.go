// Package endpointtest is the suite that each implementation of
// [endpoint.Endpoint] must pass.
package endpointtest

import (
	"context"
	"io"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/endpoint"
)

// Harness is how the suite gets at an implementation.
type Harness struct {
	// New makes a fresh endpoint. The suite closes it.
	New func(t *testing.T) endpoint.Endpoint

	// Dial becomes a client as a program on the host would, and must not pass
	// through the code under test. If what it returns has a CloseWrite, the
	// endpoint is expected to know half-closed clients. Close must wake a
	// blocked Read or Write.
	Dial func(t *testing.T, path string) io.ReadWriteCloser

	// Shared says that all who dial at one time are one client, as on a
	// terminal. Otherwise each is one, and they wait for their turn.
	Shared bool
}

// Run runs the suite, with memory and with pipes for the bytes. Each part of it must
// leave no goroutine and no descriptor.
func Run(t *testing.T, h Harness) {
	t.Run("memory", func(t *testing.T) { run(t, h) })
	t.Run("pipes", func(t *testing.T) { run(t, h.throughPipes()) })
}

func run(t *testing.T, h Harness) {
	h.New(t).Close() // what the process keeps for good is open from here on
	for _, part := range []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"Transfer_both_ways", transferBothWays},
		{"Transfer_written_and_left", transferWrittenAndLeft},
		{"Transfer_left_before_accept", transferLeftBeforeAccept},
		{"Transfer_slow_client", transferSlowClient},
		{"Transfer_slow_host", transferSlowHost},
		{"Transfer_half_closed", transferHalfClosed},
		{"Leave_in_the_middle", leaveInTheMiddle},
		{"Leave_while_write_blocks", leaveWhileWriteBlocks},
		{"Leave_gone", leaveGone},
		{"Turn_many", turnMany},
		{"Turn_second", turnSecond},
		{"Accept_cancelled", acceptCancelled},
		{"Accept_closed", acceptClosed},
		{"Close_wakes_client", closeWakesClient},
		{"Close_twice", closeTwice},
	} {
		t.Run(part.name, func(t *testing.T) {
			ignore := goleak.IgnoreCurrent()
			before := descriptors(t)
			part.run(t, h)
			if t.Failed() {
				return
			}
			if err := goleak.Find(ignore); err != nil {
				t.Error(err)
			}
			// The runtime closes a descriptor a moment after the Close that
			// took it from under a blocked call.
			eventually(t, "descriptors are closed", func() bool { return descriptors(t) <= before })
		})
	}
}

// patience is how long something may take that should be immediate.
const patience = 10 * time.Second

// pause is how long something is watched that should not happen.
const pause = 50 * time.Millisecond

// pair is one client with both of its ends.
type pair struct {
	ep   endpoint.Endpoint
	host endpoint.Client
	raw  io.ReadWriteCloser
}

func newPair(t *testing.T, h Harness) pair {
	t.Helper()
	p := pair{ep: h.New(t)}
	p.raw = h.Dial(t, p.ep.Path())
	p.host = accept(t, p.ep)
	return p
}

// close ends everything; closing some of it before is no error.
func (p pair) close(t *testing.T) {
	t.Helper()
	_ = p.raw.Close()
	_ = p.host.Close()
	if err := p.ep.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func accept(t *testing.T, ep endpoint.Endpoint) endpoint.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := ep.Accept(ctx)
	if err != nil {
		t.Fatalf("Accept: %v", err)
	}
	return c
}

// noAccept checks that nobody is there to accept.
func noAccept(t *testing.T, ep endpoint.Endpoint) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), pause)
	defer cancel()
	if c, err := ep.Accept(ctx); err == nil {
		_ = c.Close()
		t.Fatal("Accept returned a client too many")
	}
}

// start runs fn in a goroutine; the function that it returns waits for the result.
func start[T any](t *testing.T, what string, fn func() T) (wait func() T) {
	t.Helper()
	done := make(chan T, 1)
	go func() { done <- fn() }()
	return func() T {
		t.Helper()
		select {
		case v := <-done:
			return v
		case <-time.After(patience):
			panic(what + " does not return") // with every goroutine's stack
		}
	}
}

// result is what Read, Write and their like return.
type result struct {
	n   int
	err error
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not seen: %s", what)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

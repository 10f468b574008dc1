package xentest

import (
	"os"
	"sync"
	"time"

	"github.com/xenchan/xenchan/xen"
)

// Waiter is an event channel whose events a goroutine waits for, one by one.
type Waiter struct {
	xen.EventChannel
	came   chan error // capacity 1
	closed chan struct{}
	once   sync.Once
}

// Wait makes a Waiter of a channel that nobody serves.
func Wait(ch xen.EventChannel) *Waiter {
	w := &Waiter{EventChannel: ch, came: make(chan error, 1), closed: make(chan struct{})}
	ch.Serve(func(err error) time.Duration {
		select {
		case w.came <- err:
		default: // one that was not taken says as much
		}
		return xen.Masked
	})
	return w
}

// Wait blocks until an event comes, and leaves the port masked. After Close it fails
// with [os.ErrClosed].
func (w *Waiter) Wait() error {
	select {
	case <-w.closed: // rather than an event that came before
		return os.ErrClosed
	default:
	}
	select {
	case err := <-w.came:
		return err
	case <-w.closed:
		return os.ErrClosed
	}
}

// Close closes the channel and wakes Wait.
func (w *Waiter) Close() error {
	err := w.EventChannel.Close()
	w.once.Do(func() { close(w.closed) })
	return err
}

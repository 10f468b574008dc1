package daemon

import (
	"errors"
	"sync"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/internal/sys"
)

// outlet is a channel's spool and the way of its bytes to the client that is served.
// While that client keeps up, whoever empties the guest's ring sends what was in it
// too: to wake another goroutine for that takes longer than to do it. A client that
// is slower, or none, is left to its sender.
type outlet struct {
	tap
	pipes *pipes

	// lost is called when bytes were dropped; it must not block.
	lost func()

	mu     sync.Mutex      // held from the load of a pipe to what follows from it
	client endpoint.Client // who is served; nil if nobody is; guarded by mu
}

// errClient says that a client takes no more.
var errClient = errors.New("the client has left")

// Append is [tap.Append].
func (o *outlet) Append(p []byte, at uint32) int {
	n := o.tap.Append(p, at)
	select {
	case <-o.Losses():
		o.lost()
	default:
	}
	return n
}

func (o *outlet) serve(c endpoint.Client) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.client = c
}

// send gives the client the next bytes, and waits until it has taken some. It reports
// whether there were any.
func (o *outlet) send() (more bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if more, err = o.load(); !more || err != nil {
		return more, err
	}
	n, err := o.client.WriteFrom(o.pipes.out)
	o.Advance(n, o.unread())
	if err != nil {
		err = errors.Join(errClient, err)
	}
	return true, err
}

// load is the pipe's, for a client of whom one can tell what it has read. The caller holds mu.
func (o *outlet) load() (more bool, err error) {
	if r, ok := o.client.(endpoint.Reader); ok && o.Crowded() {
		o.Unread(r.Look())
	}
	return o.pipes.load()
}

// unread is how many bytes come again if the client leaves now. A terminal keeps them
// itself. The caller holds mu.
func (o *outlet) unread() int {
	if r, ok := o.client.(endpoint.Reader); ok {
		return r.Unread()
	}
	return 0
}

// leave is what follows when a client is served no more: what it has not read is
// for the next. It says how much that is.
func (o *outlet) leave() (returned int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r, ok := o.client.(endpoint.Reader)
	o.client = nil
	if !ok {
		return 0, nil
	}
	switch gone, all := r.Left(); {
	case gone && all:
		o.Unread(0)
	case gone:
		return o.pipes.giveBack()
	}
	return 0, nil // the next daemon has it
}

// Flush sends what the client takes at once, and leaves the rest to its sender.
func (o *outlet) Flush() {
	if !o.sendNow() {
		o.Log.Flush()
	}
}

// sendNow reports whether nothing is left to be sent.
func (o *outlet) sendNow() bool {
	if !o.mu.TryLock() {
		return false // the sender is at it, and looks again
	}
	defer o.mu.Unlock()
	client, ok := o.client.(interface {
		WriteFromNow(p *sys.Pipe) (int, error)
	})
	if !ok {
		return false
	}
	for {
		more, err := o.load()
		if !more || err != nil {
			return err == nil
		}
		n, err := client.WriteFromNow(o.pipes.out)
		o.Advance(n, o.unread())
		if n == 0 || err != nil {
			return false
		}
	}
}

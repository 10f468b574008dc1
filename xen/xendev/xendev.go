// Package xendev is the [xen.Hypervisor] of real Xen: the device files that Linux
// gives to programs of a domain, whichever domain that is.
//
//	/dev/xen/evtchn              event channels          module xen-evtchn
//	/dev/xen/gntdev              other domains' pages    module xen-gntdev
//	/dev/xen/gntalloc            pages for others        module xen-gntalloc, for SharePages alone
//	xenstored's socket, or
//	/dev/xen/xenbus              xenstore                see xenstore.OpenStream
//
// No hypercall is made here, so that nothing depends on the version of Xen.
package xendev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// Config says how this domain's hypervisor is reached.
type Config struct {
	// StorePath is the xenstored socket or the xenbus device; "" looks where
	// libxenstore does.
	StorePath string
}

// Hypervisor is this domain's access to Xen. It implements [xen.Hypervisor].
type Hypervisor struct {
	storePath string

	mu     sync.Mutex
	closed bool                   // guarded by mu
	events *events                // nil before the first event channel; guarded by mu
	given  map[io.Closer]struct{} // what was given out and is open, guarded by mu
}

var _ xen.Hypervisor = (*Hypervisor)(nil)

// Open checks that this is a Xen domain, that the drivers for a backend are there
// and that we may use them. Its errors say what to do about it. The store is not
// touched until OpenStore.
func Open(c Config) (*Hypervisor, error) {
	for _, device := range []string{sys.EvtchnDevice, sys.GntdevDevice} {
		if err := sys.CheckDevice(device); err != nil {
			return nil, explain(err)
		}
	}
	return &Hypervisor{storePath: c.StorePath, given: make(map[io.Closer]struct{})}, nil
}

// OpenStore opens a new stream to xenstore. It implements [xen.Hypervisor].
func (h *Hypervisor) OpenStore(ctx context.Context) (io.ReadWriteCloser, error) {
	if err := ctx.Err(); err != nil { // opening a device does not look at it
		return nil, fmt.Errorf("xendev: open store: %w", err)
	}
	stream, _, err := xenstore.OpenStream(ctx, h.storePath)
	if err != nil {
		return nil, fmt.Errorf("xendev: %w", err)
	}
	// The types differ in what else they offer: xenstore.New tells the device by
	// its Stat.
	var tracked io.ReadWriteCloser
	switch s := stream.(type) {
	case *os.File:
		tracked = &deviceStream{File: s, owner: h}
	case net.Conn:
		tracked = &socketStream{Conn: s, owner: h}
	default:
		_ = stream.Close()
		return nil, fmt.Errorf("xendev: store stream of unknown type %T", stream)
	}
	return tracked, h.adopt(tracked)
}

// deviceStream is a stream on the xenbus device that goes with its Hypervisor.
type deviceStream struct {
	*os.File
	owner *Hypervisor
}

func (s *deviceStream) Close() error {
	s.owner.forget(s)
	return s.File.Close()
}

// socketStream is a stream to xenstored's socket that goes with its Hypervisor.
type socketStream struct {
	net.Conn
	owner *Hypervisor
}

func (s *socketStream) Close() error {
	s.owner.forget(s)
	return s.Conn.Close()
}

// Close closes everything that was given out. Further calls do nothing.
func (h *Hypervisor) Close() error {
	h.mu.Lock()
	given, closed := h.given, h.closed
	h.given, h.closed = nil, true
	h.mu.Unlock()
	var errs []error
	for c := range given {
		errs = append(errs, c.Close())
	}
	if h.events != nil && !closed {
		errs = append(errs, h.events.close())
	}
	return errors.Join(errs...)
}

// adopt notes that c goes with h, or closes it when that is closed already.
func (h *Hypervisor) adopt(c io.Closer) error {
	h.mu.Lock()
	closed := h.closed
	if !closed {
		h.given[c] = struct{}{}
	}
	h.mu.Unlock()
	if closed {
		_ = c.Close()
		return fmt.Errorf("xendev: %w", os.ErrClosed)
	}
	return nil
}

func (h *Hypervisor) forget(c io.Closer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.given, c)
}

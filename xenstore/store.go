// Package xenstore is a client of the xenstore: the small tree of strings through
// which domains, toolstack and devices of a Xen host find each other.
//
// It has three ways to work, and they read alike:
//
//   - immediate: [Store.Read], [Store.Write], … each stand alone;
//   - transaction: [Store.Tx] runs a function whose reads and writes take effect
//     together, and runs it again whenever somebody else got in between;
//   - wait: [Store.WaitUntil] runs a function again whenever something that it
//     has read changes, until it is content.
//
// [Store.Watch] is the raw form of the last, for tools and for loops that select
// over several sources. A watch says "something under here changed" and never
// what the new value is: read again.
//
// A Store needs one connection and two goroutines, which end with [Store.Close].
// Everything here is safe for concurrent use unless it says otherwise, and
// requests of different goroutines are pipelined.
//
// Sources of the protocol: Xen's public header io/xs_wire.h and
// docs/misc/xenstore.txt.
package xenstore

import (
	"context"
	"io"
	"io/fs"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// Reader reads nodes. [*Store] does it at once, [*Tx] in a transaction, and the
// Reader that [Store.WaitUntil] gives remembers what was read.
type Reader interface {
	// Read is the value of a node, of any bytes. Absent nodes are fs.ErrNotExist.
	Read(ctx context.Context, path string) (string, error)
	// List is the names of a node's children, in the daemon's order.
	List(ctx context.Context, path string) ([]string, error)
	// Exists reports whether there is such a node.
	Exists(ctx context.Context, path string) (bool, error)
	// Perms is a node's permission list; its first entry names the owner.
	Perms(ctx context.Context, path string) (wire.Perms, error)
}

// Writer changes nodes, at once ([*Store]) or in a transaction ([*Tx]).
type Writer interface {
	// Write sets the value of a node and creates it and its parents if need be.
	Write(ctx context.Context, path, value string) error
	// Mkdir makes sure that there is a node, and leaves an existing one alone.
	Mkdir(ctx context.Context, path string) error
	// Remove removes a node and all below it; it is no error if there is none.
	Remove(ctx context.Context, path string) error
	// SetPerms replaces a node's permission list.
	SetPerms(ctx context.Context, path string, perms wire.Perms) error
}

// ReadWriter is what [*Store] and [*Tx] have in common.
type ReadWriter interface {
	Reader
	Writer
}

var (
	_ ReadWriter = (*Store)(nil)
	_ ReadWriter = (*Tx)(nil)
)

// Store is a connection to the xenstore. When the connection breaks, every
// request and every watch fails with the cause; a Store does not reconnect, as
// what its owner knew of the tree is void by then.
//
// A request whose context ends returns at once. It may still take effect.
type Store struct {
	nodes
}

// New returns a Store that talks over the stream and owns it. Close on the
// stream must wake a blocked Read and Write. A stream that is an open character
// device is taken for the kernel's xenbus device, as if by [NewDevice].
func New(stream io.ReadWriteCloser) *Store {
	f, ok := stream.(interface{ Stat() (fs.FileInfo, error) })
	if ok {
		if info, err := f.Stat(); err == nil && info.Mode()&fs.ModeCharDevice != 0 {
			return NewDevice(stream)
		}
	}
	return &Store{nodes{c: newConn(stream, false)}}
}

// NewDevice is [New] for the kernel's xenbus device, which differs from a socket:
// one request at a time, slightly smaller ones, errors also as errors of write,
// and, with kernels before 4.11, replies to WATCH and UNWATCH without their
// number.
func NewDevice(stream io.ReadWriteCloser) *Store {
	return &Store{nodes{c: newConn(stream, true)}}
}

// Open connects to the xenstore at path, a socket or the xenbus device. For an
// empty path it tries the same places as libxenstore; see [OpenStream].
func Open(ctx context.Context, path string) (*Store, error) {
	stream, device, err := OpenStream(ctx, path)
	if err != nil {
		return nil, err
	}
	if device {
		return NewDevice(stream), nil
	}
	return New(stream), nil
}

// Close ends the connection, and with it all watches and unfinished requests,
// which fail with [ErrClosed]. It returns when the goroutines of the Store have
// ended. Further calls do nothing.
func (s *Store) Close() error {
	s.c.fail(ErrClosed)
	s.c.wg.Wait()
	return nil
}

package xensim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
)

// Conn is a domain's connection to an embedded host, a [xen.Hypervisor].
// Hypercalls of one Conn run one after the other; events and memory do not
// involve the host at all. If the host ends, hypercalls fail with ECONNRESET.
type Conn struct {
	dom  xen.DomID
	sock *net.UnixConn

	callMu sync.Mutex // held from a request to its reply

	mu     sync.Mutex
	closed bool
	open   map[io.Closer]struct{} // what the hypervisor has given
}

var _ xen.Hypervisor = (*Conn)(nil)

// Connect connects to the host in dir as domain dom. EPERM says that this
// process's user may not be that domain, ESRCH that there is no such domain,
// and ESHUTDOWN that it does not run any more.
func Connect(ctx context.Context, dir string, dom xen.DomID) (*Conn, error) {
	c, err := connect(ctx, dir, dom)
	if err != nil {
		return nil, fmt.Errorf("connect to embedded host in %s as domain %v: %w", dir, dom, err)
	}
	return c, nil
}

func connect(ctx context.Context, dir string, dom xen.DomID) (*Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unixpacket", filepath.Join(dir, xenSocket))
	if err != nil {
		return nil, err
	}
	c := &Conn{dom: dom, sock: nc.(*net.UnixConn), open: make(map[io.Closer]struct{})}
	stop := context.AfterFunc(ctx, func() { _ = c.sock.Close() })
	_, _, err = c.call(OpHello, 0, protoVersion, uint32(dom))
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.sock.Close()
		return nil, err
	}
	return c, nil
}

// DomID is the domain that the connection belongs to.
func (c *Conn) DomID() xen.DomID { return c.dom }

// OpenStore opens a xenstore stream as this domain. See [xen.Hypervisor].
func (c *Conn) OpenStore(ctx context.Context) (io.ReadWriteCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	_, hs, err := c.call(OpOpenStore, 1)
	if err == nil && len(hs) != 1 {
		sys.CloseAll(hs)
		err = errReply
	}
	if err != nil {
		return nil, fmt.Errorf("xensim: open store: %w", err)
	}
	sock, err := sys.UnixConn(hs[0])
	if err != nil {
		return nil, fmt.Errorf("xensim: open store: %w", err)
	}
	s := &stream{UnixConn: sock, conn: c}
	if err := c.adopt(s); err != nil {
		return nil, err
	}
	return s, nil
}

// stream is a store stream that its connection closes if nobody else does.
type stream struct {
	*net.UnixConn
	conn *Conn
}

func (s *stream) Close() error {
	s.conn.forget(s)
	return s.UnixConn.Close()
}

// Close ends the connection and everything got through it. Further calls do
// nothing.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	open := c.open
	c.open = nil
	c.mu.Unlock()
	err := c.sock.Close()
	for x := range open {
		_ = x.Close()
	}
	return err
}

// adopt notes that x goes with the connection, or closes x if it is too late.
func (c *Conn) adopt(x io.Closer) error {
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.open[x] = struct{}{}
	}
	c.mu.Unlock()
	if closed {
		_ = x.Close()
		return fmt.Errorf("xensim: %w", os.ErrClosed)
	}
	return nil
}

func (c *Conn) forget(x io.Closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, x)
}

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// errReply says that the host answered something that it never should.
var errReply = fmt.Errorf("reply of the hypervisor makes no sense: %w", syscall.EBADMSG)

// undo is the hypercall that gives back what another one has given, by the first
// of its results.
var undo = map[Op]Op{
	OpAllocUnbound: OpClosePort, OpBindInterdomain: OpClosePort, OpShare: OpUnshare, OpMap: OpUnmap,
}

// call makes a hypercall and returns the results, and at most maxPass
// descriptors, which are the caller's.
func (c *Conn) call(op Op, maxPass int, args ...uint32) ([]uint32, []*sys.Handle, error) {
	c.callMu.Lock()
	defer c.callMu.Unlock()
	words, hs, err := c.exchange(op, maxPass, args...)
	if errors.Is(err, errLost) && undo[op] != 0 && len(words) > 0 {
		_, _, _ = c.exchange(undo[op], 0, words[0])
	}
	if err != nil {
		return nil, nil, err
	}
	return words, hs, nil
}

// errLost says that a hypercall worked, but this process had no room for the
// descriptors.
var errLost = fmt.Errorf("no room for descriptors: %w", syscall.EMFILE)

// exchange sends a request and receives its reply; callMu is held. With an
// error there are no descriptors.
func (c *Conn) exchange(op Op, maxPass int, args ...uint32) ([]uint32, []*sys.Handle, error) {
	buf := make([]byte, maxMessage)
	if err := sys.SendMsg(c.sock, encode(uint32(op), args...)); err != nil {
		return nil, nil, c.brokenError(err)
	}
	n, hs, err := sys.RecvMsg(c.sock, buf, maxPass)
	lost := n > 0 && errors.Is(err, syscall.EMFILE)
	if err != nil && !lost {
		return nil, nil, c.brokenError(err)
	}
	errno, words, err := decode(buf[:n])
	switch {
	case err == nil && errno != 0:
		err = syscall.Errno(errno)
	case err == nil && lost:
		err = errLost
	}
	if err != nil {
		sys.CloseAll(hs)
		return words, nil, err
	}
	return words, hs, nil
}

// brokenError is what a hypercall returns when the connection fails under it.
func (c *Conn) brokenError(err error) error {
	if c.isClosed() {
		return os.ErrClosed
	}
	_ = c.sock.Close() // request and reply would not match any more
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fmt.Errorf("the hypervisor is gone: %w", errno)
	}
	return fmt.Errorf("the hypervisor is gone: %w", syscall.ECONNRESET)
}

// patience is how long a process that gives something back waits for the
// hypervisor's word, in order that it can end while that stands still.
const patience = 3 * time.Second

// giveBack tells the hypervisor that a resource is not used any more. It is no
// error if there is nobody left to tell, as then the resource is gone too; nor if
// nobody answers, as the connection is then closed, and all goes with it.
func (c *Conn) giveBack(op Op, arg uint32) error {
	_ = c.sock.SetReadDeadline(time.Now().Add(patience)) // also of a call under way
	_, _, err := c.call(op, 0, arg)
	_ = c.sock.SetReadDeadline(time.Time{})
	if err == nil || c.isClosed() || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return fmt.Errorf("xensim: %v: %w", op, err)
}

package xensim

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
)

// channel is a local port. What masks it is the absence of the one token in
// unmasked; an event that comes meanwhile stays in the eventfd's counter.
type channel struct {
	conn     *Conn
	port     xen.Port
	rx       *sys.Bell
	tx       *sys.Handle
	fresh    atomic.Bool   // bound and not waited for yet: an event is pending
	unmasked chan struct{} // capacity 1
	closed   chan struct{}
	once     sync.Once
	closeErr error
}

// BindInterdomain binds a port to one of remote. See [xen.Hypervisor].
func (c *Conn) BindInterdomain(remote xen.DomID, port xen.Port) (xen.EventChannel, error) {
	ch, err := c.newChannel(OpBindInterdomain, uint32(remote), uint32(port))
	if err != nil {
		return nil, fmt.Errorf("xensim: bind to port %v of domain %v: %w", port, remote, err)
	}
	return ch, nil
}

// AllocUnbound allocates a port for remote to bind. See [xen.Hypervisor].
func (c *Conn) AllocUnbound(remote xen.DomID) (xen.EventChannel, error) {
	ch, err := c.newChannel(OpAllocUnbound, uint32(remote))
	if err != nil {
		return nil, fmt.Errorf("xensim: allocate a port for domain %v: %w", remote, err)
	}
	return ch, nil
}

func (c *Conn) newChannel(op Op, args ...uint32) (*channel, error) {
	words, hs, err := c.call(op, 2, args...)
	if err != nil {
		return nil, err
	}
	if len(words) != 1 || len(hs) != 2 {
		sys.CloseAll(hs)
		return nil, errReply
	}
	rx, err := sys.NewBell(hs[0])
	if err != nil {
		_ = hs[1].Close()
		_ = c.giveBack(OpClosePort, words[0])
		return nil, err
	}
	ch := &channel{
		conn: c, port: xen.Port(words[0]), rx: rx, tx: hs[1],
		unmasked: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	ch.unmasked <- struct{}{}
	ch.fresh.Store(op == OpBindInterdomain)
	if err := c.adopt(ch); err != nil {
		return nil, err
	}
	return ch, nil
}

func (ch *channel) Port() xen.Port { return ch.port }

func (ch *channel) Notify() error {
	if err := ch.tx.Signal(); err != nil {
		return fmt.Errorf("xensim: notify port %v: %w", ch.port, err)
	}
	return nil
}

func (ch *channel) Wait() error {
	select {
	case <-ch.closed:
		return ch.closedError()
	case <-ch.unmasked:
	}
	var err error
	if ch.fresh.Swap(false) {
		err = ch.rx.Clear() // what came meanwhile is the same event
	} else {
		err = ch.rx.Wait()
	}
	select { // an Unmask during the wait has nothing to say about this event
	case <-ch.unmasked:
	default:
	}
	select {
	case <-ch.closed:
		return ch.closedError()
	default:
	}
	if err != nil {
		return fmt.Errorf("xensim: wait on port %v: %w", ch.port, err)
	}
	return nil
}

func (ch *channel) Unmask() error {
	select {
	case <-ch.closed:
		return ch.closedError()
	case ch.unmasked <- struct{}{}:
	default: // was not masked
	}
	return nil
}

func (ch *channel) Close() error {
	ch.once.Do(func() {
		close(ch.closed)
		ch.conn.forget(ch)
		_ = ch.rx.Close()
		_ = ch.tx.Close()
		ch.closeErr = ch.conn.giveBack(OpClosePort, uint32(ch.port))
	})
	return ch.closeErr
}

func (ch *channel) closedError() error {
	return fmt.Errorf("xensim: port %v: %w", ch.port, os.ErrClosed)
}

package xensim

import (
	"fmt"
	"sync"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/turns"
)

// channel is a local port: an eventfd that is waited for, and one that is rung.
type channel struct {
	*turns.Channel
	conn   *Conn
	port   xen.Port
	bells  *sys.Bells
	key    uint32
	rx, tx *sys.Handle
	once   sync.Once
	err    error // of Close
}

// waiter is who waits for the events of all connections of this process, which may be
// thousands. It is there for as long as there are channels.
var waiter struct {
	sync.Mutex
	bells    *sys.Bells
	turns    *turns.Dispatcher
	channels int
}

// acquireWaiter makes the waiter for the first channel.
func acquireWaiter() (*sys.Bells, *turns.Dispatcher, error) {
	w := &waiter
	w.Lock()
	defer w.Unlock()
	if w.channels == 0 {
		bells, err := sys.NewBells()
		if err != nil {
			return nil, nil, err
		}
		w.bells, w.turns = bells, turns.New(bells)
	}
	w.channels++
	return w.bells, w.turns, nil
}

func releaseWaiter() {
	w := &waiter
	w.Lock()
	defer w.Unlock()
	w.channels--
	if w.channels > 0 {
		return
	}
	if w.turns.Close() == nil {
		_ = w.bells.Close()
	}
}

// BindInterdomain binds a port to one of remote. See [xen.Hypervisor].
func (c *Conn) BindInterdomain(remote xen.DomID, port xen.Port) (xen.EventChannel, error) {
	ch, err := c.newChannel(OpBindInterdomain, uint32(remote), uint32(port))
	if err != nil {
		return nil, fmt.Errorf("xensim: bind to port %v of domain %v: %w", port, remote, err)
	}
	ch.Pend()
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
	ch := &channel{conn: c, port: xen.Port(words[0]), rx: hs[0], tx: hs[1]}
	if err := ch.listen(); err != nil {
		sys.CloseAll(hs)
		_ = c.giveBack(OpClosePort, words[0])
		return nil, err
	}
	if err := c.adopt(ch); err != nil {
		return nil, err
	}
	return ch, nil
}

func (ch *channel) listen() error {
	bells, dispatcher, err := acquireWaiter()
	if err != nil {
		return err
	}
	ch.bells = bells
	ch.Channel, err = dispatcher.Add(func() (uint32, error) {
		ch.key, err = bells.Add(ch.rx)
		return ch.key, err
	})
	if err != nil {
		releaseWaiter()
	}
	return err
}

func (ch *channel) Port() xen.Port { return ch.port }

func (ch *channel) Notify() error {
	if err := ch.tx.Signal(); err != nil {
		return fmt.Errorf("xensim: notify port %v: %w", ch.port, err)
	}
	return nil
}

func (ch *channel) Close() error {
	ch.once.Do(func() {
		ch.conn.forget(ch)
		_ = ch.bells.Remove(ch.key)
		ch.Channel.Close()
		_ = ch.rx.Close()
		_ = ch.tx.Close()
		ch.err = ch.conn.giveBack(OpClosePort, uint32(ch.port))
		releaseWaiter()
	})
	return ch.err
}

func (ch *channel) Unmask() error {
	if err := ch.Channel.Unmask(); err != nil {
		return fmt.Errorf("xensim: port %v: %w", ch.port, err)
	}
	return nil
}

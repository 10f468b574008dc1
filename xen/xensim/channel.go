package xensim

import (
	"fmt"
	"os"
	"sync"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/turns"
)

// channel is a local port.
type channel struct {
	*turns.Channel
	conn *Conn
	port xen.Port
	link linkName
	slot uint32
	key  uint32
	tx   *sys.Handle // the link's
	once sync.Once
	err  error // of Close

	mu     sync.Mutex // held while the link's memory is touched
	peer   end        // guarded by mu
	closed bool       // guarded by mu
}

// waiter is who waits for the events of all connections of this process, which may be
// thousands. It is there for as long as there are channels.
var waiter struct {
	sync.Mutex
	bells    *doorbells
	turns    *turns.Dispatcher
	channels int
}

// acquireWaiter makes the waiter for the first channel.
func acquireWaiter() (*doorbells, *turns.Dispatcher, error) {
	w := &waiter
	w.Lock()
	defer w.Unlock()
	if w.channels == 0 {
		bells, err := newDoorbells()
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
	words, hs, err := c.call(op, 3, args...)
	if err != nil {
		return nil, err
	}
	if len(words) != 4 || words[2] >= maxSlots || words[3] > 1 || len(hs) != 3 {
		sys.CloseAll(hs)
		return nil, errReply
	}
	ch := &channel{
		conn: c, port: xen.Port(words[0]), link: linkName{c, words[1], int(words[3])}, slot: words[2],
	}
	if err := ch.listen(hs); err != nil {
		_ = c.giveBack(OpClosePort, words[0])
		return nil, err
	}
	if err := c.adopt(ch); err != nil {
		return nil, err
	}
	return ch, nil
}

func (ch *channel) listen(hs []*sys.Handle) error {
	bells, dispatcher, err := acquireWaiter()
	if err != nil {
		sys.CloseAll(hs)
		return err
	}
	ch.Channel, err = dispatcher.Add(func() (uint32, error) {
		w, key, err := bells.add(ch.link, ch.slot, hs)
		if err != nil {
			return 0, err
		}
		ch.key, ch.tx, ch.peer = key, w.tx, endOf(w.memory.Bytes(), 1-w.side, ch.slot)
		return key, nil
	})
	if err != nil {
		sys.CloseAll(hs)
		releaseWaiter()
	}
	return err
}

func (ch *channel) Port() xen.Port { return ch.port }

func (ch *channel) Notify() (err error) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.closed {
		err = os.ErrClosed
	} else if ch.peer.send() {
		err = ch.tx.Signal()
	}
	if err != nil {
		return fmt.Errorf("xensim: notify port %v: %w", ch.port, err)
	}
	return nil
}

func (ch *channel) Close() error {
	ch.once.Do(func() {
		ch.conn.forget(ch)
		ch.Channel.Close()
		ch.mu.Lock()
		ch.closed = true
		ch.mu.Unlock()
		waiter.bells.remove(ch.link, ch.slot, ch.key)
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

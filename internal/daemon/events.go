package daemon

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/endpoint/unixsock"
	"github.com/xenchan/xenchan/spool"
)

const (
	// queued is how many events wait for one subscriber at the most.
	queued = 1024
	// maxSubscribers bounds what subscribers can make the daemon keep.
	maxSubscribers = 64
	// pollEvery is how often guests and waiting clients are looked at while
	// somebody subscribes: neither says anything by itself.
	pollEvery = 200 * time.Millisecond
	// lossPause is how long further losses of a channel are gathered before they
	// are told.
	lossPause = 100 * time.Millisecond
)

// hub gives each event to all subscribers. Nobody waits for them: what a slow one
// has no room for is counted, and it is told how much that was.
type hub struct {
	mu   sync.Mutex
	seq  uint64                 // of the last event; guarded by mu, as all below
	subs map[*subscription]bool // nil once closed
	wg   sync.WaitGroup         // one for each; only added to while subs is there

	// looks has a channel to close once what is polled was looked at, so that what
	// a subscriber hears of is what has changed since it came.
	looks chan chan struct{}
}

// subscription is one subscriber's queue.
type subscription struct {
	ready  chan struct{}   // capacity 1: there is something to take
	queue  []channel.Event // guarded by the hub's mu, as missed
	missed uint64          // after those in queue
}

func newHub() *hub {
	return &hub{subs: make(map[*subscription]bool), looks: make(chan chan struct{})}
}

func (h *hub) publish(e channel.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	e.Seq, e.Time = h.seq, time.Now()
	for s := range h.subs {
		if len(s.queue) == queued {
			s.missed++
		} else {
			s.queue = append(s.queue, e)
		}
		poke(s.ready)
	}
}

// subscribe begins a subscription: nil when there are too many, or no more events.
// The number is that of the last event before it.
func (h *hub) subscribe() (*subscription, uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs == nil || len(h.subs) == maxSubscribers {
		return nil, 0
	}
	h.wg.Add(1)
	s := &subscription{ready: make(chan struct{}, 1)}
	h.subs[s] = true
	return s, h.seq
}

func (h *hub) unsubscribe(s *subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, s)
	h.wg.Done()
}

// close waits for the subscribers to end, who have been told to, and lets no more in.
func (h *hub) close() {
	h.mu.Lock()
	h.subs = nil
	h.mu.Unlock()
	h.wg.Wait()
}

func (h *hub) watched() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subs) > 0
}

// take returns what waits for a subscriber; a last event says what was left out.
func (h *hub) take(s *subscription) []channel.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := s.queue
	if s.missed > 0 {
		all = append(all, channel.Event{Seq: h.seq, Time: time.Now(), Kind: channel.EventMissed, Missed: s.missed})
	}
	s.queue, s.missed = nil, 0
	return all
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// event is an event of this device.
func (d *device) event(kind channel.EventKind) channel.Event {
	return channel.Event{Kind: kind, DomID: uint16(d.dom), DevID: d.devid, Name: d.spec.Name}
}

// clientCame counts a client and tells of it; what it returns does so when the
// client has left.
func (d *device) clientCame(client endpoint.Client) (left func()) {
	e := d.event(channel.EventClient)
	if c, ok := client.(interface{ Peer() unixsock.Peer }); ok {
		p := c.Peer()
		e.PID, e.UID = &p.PID, &p.UID
	}
	changed := func(by int32, change string) {
		n := int(d.clients.Add(by))
		e.Clients, e.Change = &n, change
		d.daemon.events.publish(e)
		d.log.Debug("client "+change, "clients", n)
	}
	changed(1, channel.ClientConnected)
	return func() { changed(-1, channel.ClientLeft) }
}

// waiting is how many clients wait for their turn; nil when that is not known.
func (d *device) waiting() *int {
	d.mu.Lock()
	ep, ok := d.endpoint.(interface{ Waiting() (int, error) })
	d.mu.Unlock()
	if !ok {
		return nil
	}
	n, err := ep.Waiting()
	if err != nil {
		return nil
	}
	return &n
}

// losses tells of the bytes that a full spool drops, soon after some were. It never
// stands in the way of the one who drops them.
type losses struct {
	soon atomic.Bool // they are about to be told
	wg   sync.WaitGroup
}

// lost has somebody tell of losses, a little later, or at once when the daemon ends.
func (d *device) lost() {
	if d.telling.soon.Swap(true) {
		return
	}
	d.telling.wg.Go(func() {
		select {
		case <-time.After(lossPause): // more of the same is likely
		case <-d.daemon.life.Done():
		}
		d.telling.soon.Store(false)
		d.tellLosses()
	})
}

func (d *device) tellLosses() {
	for _, l := range d.spool.TakeLosses() {
		d.tellLoss(l)
	}
}

func (d *device) tellLoss(l spool.Loss) {
	dropped := uint64(d.spool.Positions().Dropped)
	loss := channel.Loss(l)
	e := d.event(channel.EventLoss)
	e.Lost, e.Dropped = &loss, &dropped
	d.daemon.events.publish(e)
	d.log.Warn("bytes of the guest are lost, as the spool is full", "bytes", l.Bytes, "from", l.From, "to", l.To, "dropped", dropped)
}

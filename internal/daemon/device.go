package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// device is one backend directory and, when it is ours, the channel behind it.
type device struct {
	daemon   *Daemon
	dir      string
	dom      xen.DomID
	devid    int
	frontend string
	log      *slog.Logger

	turn    turn        // guarded by crew.mu, as turns
	turns   uint32      // that it has had
	begun   bool        // for takeTurn alone, as over
	over    bool        // it has ended
	changed atomic.Bool // the nodes have, since the last look began
	named   atomic.Bool // spec is known, and does not change any more

	spec     channel.Spec
	instance string // of all channels that were attached here, this one
	spool    spoolFile
	keep     *keep
	pipes    *pipes
	out      outlet
	telling  losses
	gone     atomic.Bool // the channel is no more: nothing of it is to stay
	fence    fence
	place    place

	mu       sync.Mutex
	backend  *console.Backend   // nil while it does not serve; guarded by mu, as all below
	conn     *console.Conn      // nil while the guest is not attached
	attached chan struct{}      // closed when it is; nil while nobody waits for that
	endpoint endpoint.Endpoint  // nil while there is none
	problem  string             // why there is none
	said     channel.GuestState // by the guest helper, "" while there is none
	settled  bool               // it is first served, or is not ours
	settling chan struct{}      // closed then; nil while nobody waits for that
	dormant  chan struct{}      // closed when a console that waits to be asked for is to be looked at; nil for any other
	open     bool               // clients can connect, or cannot
	opening  chan struct{}      // closed then; nil while nobody waits for that
	looked   bool               // the backend has settled
	placed   bool               // an endpoint was opened, or there is a problem

	observers observers
	reader    sync.Mutex // held by who takes bytes out of the spool: a client's sender, or skip

	clients atomic.Int32
	refused atomic.Int64 // clients that "allow" does not name
}

func newDevice(d *Daemon, dir string, dom xen.DomID, devid int) *device {
	dev := &device{
		daemon: d, dir: dir, dom: dom, devid: devid,
		frontend: fmt.Sprintf("/local/domain/%v/device/console/%d", dom, devid),
	}
	dev.log = limited(d.Log, dev.who)
	return dev
}

// who is what each line of the log about the device says.
func (d *device) who() []slog.Attr {
	attrs := []slog.Attr{slog.Any("domid", d.dom), slog.Int("devid", d.devid)}
	if d.named.Load() {
		attrs = append(attrs, slog.String("channel", d.spec.Name))
	}
	return attrs
}

// spoolName is the name of the file with the spool.
func (d *device) spoolName() string { return fmt.Sprintf("%v-%d", d.dom, d.devid) }

// look says that the nodes have changed.
func (d *device) look() {
	d.changed.Store(true)
	d.mu.Lock()
	b := d.backend
	if d.dormant != nil {
		close(d.dormant)
		d.dormant = nil
	}
	d.mu.Unlock()
	if b != nil {
		b.Look()
	}
}

func (d *device) settle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settled = true
	if d.settling != nil {
		close(d.settling)
		d.settling = nil
	}
}

// sleep returns when the nodes have changed, or the device model has asked.
func (d *device) sleep(ctx context.Context) error {
	d.mu.Lock()
	if d.changed.Load() {
		d.mu.Unlock()
		return nil
	}
	wake := make(chan struct{})
	d.dormant = wake
	d.mu.Unlock()
	select {
	case <-wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *device) opened() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = true
	if d.opening != nil {
		close(d.opening)
		d.opening = nil
	}
}

// whenOpen is closed when clients can connect, or cannot.
func (d *device) whenOpen() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open {
		return closed
	}
	if d.opening == nil {
		d.opening = make(chan struct{})
	}
	return d.opening
}

var closed = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

// whenSettled is closed when the device is first served, or is not ours.
func (d *device) whenSettled() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.settled {
		return closed
	}
	if d.settling == nil {
		d.settling = make(chan struct{})
	}
	return d.settling
}

// settleBoth takes note that one end is settled, and settles with the other.
func (d *device) settleBoth(end *bool) {
	d.mu.Lock()
	*end = true
	both := d.looked && d.placed
	d.mu.Unlock()
	if both {
		d.settle()
	}
}

// readSpec reads what the channel is.
func (d *device) readSpec(ctx context.Context) (invalid, err error) {
	err = d.daemon.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		v := xenstore.NewValues(ctx, tx)
		d.instance = v.Get(d.dir + "/" + toolstack.Instance)
		d.spec, invalid = toolstack.ReadSpec(v, d.dir)
		return v.Err()
	})
	return invalid, err
}

// identify finds out whether the device is ours. A toolstack that does not use
// a transaction may write the frontend after the backend; its type is awaited. So
// is a device model that hands a stock console over.
func (d *device) identify(ctx context.Context) (mine bool, err error) {
	stock := false
	look := func(r xenstore.Reader) (bool, error) {
		v := xenstore.NewValues(ctx, r)
		typeNode, standIn := d.frontend+"/type", toolstack.StandIn(d.daemon.self, d.dom)
		v.Prefetch(typeNode, d.dir+"/"+toolstack.Instance, d.dir+"/frontend", standIn)
		kind, ok := v.Lookup(typeNode)
		d.instance = v.Get(d.dir + "/" + toolstack.Instance)
		exists := v.Get(d.dir+"/frontend") == d.frontend
		stock = kind == toolstack.StockType
		switch d.daemon.DeviceModel {
		case 0:
			mine = kind == toolstack.Type || stock && (d.daemon.standIns.has(d.dom) || v.Get(standIn) == toolstack.HandedOver)
		default:
			mine = stock && d.dom == d.daemon.DeviceModel
		}
		mine = mine && exists
		decided := !exists || mine || ok && !stock
		if !decided {
			d.settle() // nothing to serve yet
		}
		return decided, v.Err()
	}
	for {
		d.changed.Store(false)
		// Most often all is there: then nothing needs to be watched.
		decided, err := look(d.daemon.Store)
		if decided || err != nil {
			return mine, err
		}
		d.daemon.crew.aside(func() {
			if !stock {
				err = d.daemon.Store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
					decided, err := look(r)
					return decided || stock, err
				})
				return
			}
			err = d.sleep(ctx)
		})
		if err != nil {
			return false, err
		}
	}
}

// forget removes what is kept of a channel whose nodes are gone.
func (d *device) forget() {
	if err := d.daemon.spools.remove(d.spoolName()); err != nil {
		d.log.Warn("the spool stays", "error", err)
	}
}

// awaitEnd waits until the backend's directory is gone, or is another device's.
func (d *device) awaitEnd(ctx context.Context) error {
	return d.daemon.Store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
		v := xenstore.NewValues(ctx, r)
		d.changed.Store(false) // what this look sees needs no further one
		gone := v.Get(d.dir+"/frontend") == ""
		replaced := !gone && v.Get(d.dir+"/"+toolstack.Instance) != d.instance
		if replaced && v.Err() == nil {
			d.look() // for the device that follows
		}
		return gone || replaced, v.Err()
	})
}

func (d *device) attach(c *console.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn = c
	if d.attached != nil {
		close(d.attached)
		d.attached = nil
	}
}

func (d *device) detach(*console.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn = nil
}

// guest is the attached ring, or nil and a channel that is closed when there is one.
func (d *device) guest() (*console.Conn, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == nil && d.attached == nil {
		d.attached = make(chan struct{})
	}
	return d.conn, d.attached
}

// flush gives a connected client a moment to take what a guest said last.
func (d *device) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for d.clients.Load() > 0 && d.spool.Positions().Spooled > 0 && ctx.Err() == nil {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// keepTTY keeps the path of the terminal where `xl console` and `xl channel-list`
// look for it, also in a frontend that was taken away and offered again.
func (d *device) keepTTY(ctx context.Context, path string) {
	node := d.frontend + "/tty"
	for {
		replaced := false
		err := d.daemon.Store.Tx(ctx, func(tx *xenstore.Tx) error {
			v := xenstore.NewValues(ctx, tx)
			now, there := v.Lookup(node) // not to make a directory that was removed
			replaced = v.Get(d.dir+"/"+toolstack.Instance) != d.instance
			if v.Err() != nil || !there || replaced || now == path {
				return v.Err()
			}
			return tx.Write(ctx, node, path)
		})
		d.opened()
		if replaced {
			return // the device was made anew: that one has another terminal
		}
		if err != nil {
			d.log.Warn("terminal's path not published", "error", err)
			return
		}
		err = d.daemon.Store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
			v := xenstore.NewValues(ctx, r)
			now, ok := v.Lookup(node)
			return ok && now != path, v.Err()
		})
		if err != nil {
			return // the store or the channel is gone, which run sees too
		}
	}
}

// status is a device's row, if it is one of ours.
func (d *device) status() (Status, bool) {
	waiting := d.waiting()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.backend == nil {
		return Status{}, false
	}
	guest := channel.GuestUnknown
	switch {
	case d.conn == nil:
	case d.said != "":
		guest = d.said
	case d.conn.Stats().PeerReads:
		guest = channel.GuestReading
	}
	pos := d.spool.Positions()
	losses := []channel.Loss{}
	for _, l := range d.spool.LatestLosses() {
		losses = append(losses, channel.Loss(l))
	}
	return Status{
		DomID: uint16(d.dom), DevID: d.devid, Guest: guest,
		Clients: int(d.clients.Load()), Waiting: waiting,
		GuestToHost: uint64(pos.End), HostToGuest: uint64(d.spool.Inbox().Total()),
		Spooled: uint64(pos.Spooled), Dropped: uint64(pos.Dropped),
		Skipped: uint64(pos.Skipped), Observers: int(d.observers.n.Load()),
		Losses:  losses,
		Refused: uint64(d.refused.Load()),
		Problem: d.problem,
	}, true
}

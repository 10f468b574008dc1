// Package daemon is the backend of a host's channels: it watches what the
// toolstack wants in xenstore, serves each channel of this project's type with a
// device of its own, and lets go of what is no longer wanted.
//
// It never writes what it did not find: a channel's nodes belong to the toolstack,
// and when the daemon stops it leaves them alone, so that guests do not notice.
//
// Nothing that a guest has sent is lost when a daemon ends, in order or by a kill
// at any instruction. It is in the guest's ring or in the channel's spool, a file
// in RunDir/daemon.spool that the next daemon goes on with, and the counts of what
// was taken and dropped go on too. A client gets what was spooled before it came,
// by whichever daemon.
//
// Where a service manager keeps descriptors (package fdstore), clients do not notice
// either: places and connections stay, and each byte arrives once, in both
// directions. Where none does, clients lose their connection with the daemon, and the
// bytes that were being written to one, 32 KiB at the most, may come twice: once to
// that client, and again to the next.
//
// A spool belongs to a channel that was attached once: the toolstack gives each
// attached channel another "instance", which is in the spool's label with the
// channel's name. So a channel that takes the place of another while no daemon runs
// does not get the other's bytes. Spools without a channel are removed.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/xenchan/xenchan/agent/firewall"
	"github.com/xenchan/xenchan/internal/fdstore"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// Config is what a daemon needs.
type Config struct {
	// Store and Hypervisor are this domain's. The caller closes them after Run.
	Store      *xenstore.Store
	Hypervisor xen.Hypervisor
	// RunDir is where sockets without a place of their own are, and the status
	// socket. It is made if it is not there.
	RunDir string
	// Descriptors outlive this daemon. Nil means that none do.
	Descriptors *fdstore.Store
	// DeviceModel, if it is not 0, is the one domain whose stock consoles are
	// served, and nothing else, in the place of its QEMU.
	DeviceModel xen.DomID
	// Ready is called once every channel that was there at the start is served.
	Ready func()
	// Rested, if set, is called when nothing has happened to channels for a second, after
	// it has to many.
	Rested func()
	// Beside, if set, runs for as long as the daemon has RunDir to itself.
	Beside func(context.Context) error
	// Routes are further requests that the status socket answers, by their
	// patterns for [http.ServeMux].
	Routes map[string]http.HandlerFunc
	// Pulse, unless nil, is called every PulseEvery while the daemon makes progress.
	Pulse      func()
	PulseEvery time.Duration
	// SocketDirs are the directories below which a channel's own path may be; nil
	// is anywhere.
	SocketDirs []string
	// Files is how many descriptors there are for channels and their clients; 0 is as
	// many as are wanted. [LeastFiles] are enough for one channel.
	Files int
	// Firewall says who may ask guest agents what; nil is anybody anything. Audit is
	// where that is logged; nil is Log.
	Firewall *firewall.Current
	Audit    *slog.Logger
	// About is what the caller knows of this process, for who asks.
	About About
	Log   *slog.Logger
}

// Daemon serves channels.
type Daemon struct {
	Config
	self    string // this domain's home
	root    string // of the backends in it
	spools  *spools
	events  *hub
	group   *errgroup.Group
	life    context.Context // of all devices
	alive   sync.WaitGroup  // all devices, and follow, which finds them
	crew    crew
	doors   *doors
	renamed *renames
	nudge   chan struct{} // follow takes what comes, to show that it can

	standIns  standIns
	files     files
	unserved  atomic.Int64 // channels
	observers atomic.Int32

	mu      sync.Mutex
	devices map[string]*device  // by the backend's directory; guarded by mu
	left    map[string][]string // what earlier daemons have kept, by channel; guarded by mu
}

// Run serves until the context ends, when it returns nil, or until it cannot go
// on, as when the xenstore connection is lost.
func Run(ctx context.Context, c Config) error {
	d := &Daemon{Config: c, devices: make(map[string]*device), left: inherited(c.Descriptors), events: newHub(), nudge: make(chan struct{}), renamed: newRenames()}
	d.files.limit = c.Files
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Firewall == nil {
		d.Firewall = firewall.NewCurrent(&firewall.Set{})
	}
	d.Audit = cmp.Or(d.Audit, d.Log)
	domid, err := d.Store.Read(ctx, "domid")
	if err != nil {
		return fmt.Errorf("ask xenstore which domain this is: %w", err)
	}
	d.self = "/local/domain/" + domid
	d.root = d.self + "/backend/console"
	lock, err := d.lockRunDir()
	if err != nil {
		return err
	}
	defer lock.Close()
	if d.spools, err = openSpools(d.RunDir); err != nil {
		return fmt.Errorf("directory of the spools: %w", err)
	}
	defer d.spools.close()
	status, err := d.listenStatus()
	if err != nil {
		return err
	}
	public, err := d.listenPublic(ctx)
	if err != nil {
		return errors.Join(err, status.Close())
	}
	if d.doors, err = openDoors(); err != nil {
		return errors.Join(err, status.Close(), public.Close())
	}
	d.start(ctx, status, public)
	if err := d.group.Wait(); !errors.Is(err, context.Canceled) || ctx.Err() == nil {
		return err
	}
	return nil
}

// start starts all there is, which ends with the context or the first of it that fails.
func (d *Daemon) start(ctx context.Context, status, public net.Listener) {
	d.group, d.life = errgroup.WithContext(ctx)
	all := d.life
	d.crew.take, d.crew.rested = (*device).takeTurn, d.Rested
	d.group.Go(func() error { return d.doors.run(all) })
	d.group.Go(func() error { return d.followRules(all) })
	d.group.Go(func() error { return d.serveStatus(all, status) })
	d.group.Go(func() error { return d.servePublic(all, public) })
	d.alive.Add(1)
	d.group.Go(func() error {
		defer d.alive.Done()
		return d.follow(all)
	})
	d.group.Go(d.endDevices)
	if d.Beside != nil {
		d.group.Go(func() error { return d.Beside(all) })
	}
	if d.Pulse != nil {
		d.group.Go(func() error { return d.pulse(all) })
	}
	d.group.Go(func() error { return d.observe(all) })
	if d.self == "/local/domain/0" && d.DeviceModel == 0 {
		for _, kind := range toolstack.QEMUBackends {
			d.group.Go(func() error { return d.followLate(all, kind) })
		}
	}
}

// follow keeps one device for each backend directory.
func (d *Daemon) follow(ctx context.Context) error {
	wanted, err := d.Store.Watch(ctx, d.root)
	if err != nil {
		return fmt.Errorf("watch %s: %w", d.root, err)
	}
	defer wanted.Close()
	// A driver domain may not be allowed to hear of other domains' ends; its
	// toolstack removes the nodes then.
	released, err := d.Store.Watch(ctx, "@releaseDomain")
	var gone <-chan struct{}
	if err == nil {
		defer released.Close()
		gone = released.C()
	}
	if err := d.scan(ctx); err != nil {
		return err
	}
	if err := d.sweep(); err != nil {
		d.Log.Warn("what earlier daemons have left stays", "error", err)
	}
	d.group.Go(func() error { return d.announce(ctx) })
	for {
		select {
		case _, ok := <-wanted.C():
			if !ok {
				return fmt.Errorf("xenstore: %w", wanted.Err())
			}
			if err := d.changed(ctx, wanted.Take()); err != nil {
				return err
			}
		case _, ok := <-gone:
			if !ok {
				return fmt.Errorf("xenstore: %w", released.Err())
			}
			released.Take()
			d.lookAtAll()
			if err := d.endStandIns(ctx); err != nil {
				return err
			}
		case <-d.nudge:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// announce reports readiness once all devices of the first scan have settled.
func (d *Daemon) announce(ctx context.Context) error {
	for _, dev := range d.snapshot() {
		select {
		case <-dev.whenSettled():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if d.Ready != nil {
		d.Ready()
	}
	return nil
}

// changed looks at the devices that changed paths belong to.
func (d *Daemon) changed(ctx context.Context, paths []string) error {
	for _, p := range paths {
		rest, _ := strings.CutPrefix(p, d.root)
		parts := strings.Split(rest, "/") // "", domid, devid, node…
		if len(parts) < 3 {
			if err := d.scan(ctx); err != nil {
				return err
			}
			d.lookAtAll()
			return nil
		}
		// Libxl writes a dozen nodes of each of its own consoles, which are nothing to us.
		if dir := path.Join(d.root, parts[1], parts[2]); p == dir || !d.dormant(dir) {
			d.found(parts[1], parts[2])
		}
	}
	return nil
}

// dormant says whether a backend's directory is a console that waits to be asked for.
func (d *Daemon) dormant(dir string) bool {
	d.mu.Lock()
	dev := d.devices[dir]
	d.mu.Unlock()
	if dev == nil {
		return false
	}
	dev.mu.Lock()
	defer dev.mu.Unlock()
	return dev.dormant != nil
}

// scan starts devices for backend directories that have none.
func (d *Daemon) scan(ctx context.Context) error {
	v := xenstore.NewValues(ctx, d.Store)
	for _, dom := range v.List(d.root) {
		for _, dev := range v.List(d.root + "/" + dom) {
			d.found(dom, dev)
		}
	}
	if err := v.Err(); err != nil {
		return fmt.Errorf("list the backends: %w", err)
	}
	return nil
}

// found is a backend's directory. That of the primary console, with the number 0, is
// none of ours, whatever its nodes say.
func (d *Daemon) found(domid, devid string) {
	dom, err := xen.ParseDomID(domid)
	id, idErr := strconv.Atoi(devid)
	if err == nil && idErr == nil && id > 0 && strconv.Itoa(id) == devid {
		d.device(dom, id)
	}
}

// device tells a device that its nodes have changed, or starts one.
func (d *Daemon) device(dom xen.DomID, devid int) *device {
	dir := fmt.Sprintf("%s/%v/%d", d.root, dom, devid)
	d.mu.Lock()
	defer d.mu.Unlock()
	if dev := d.devices[dir]; dev != nil {
		dev.look()
		return dev
	}
	dev := newDevice(d, dir, dom, devid)
	d.devices[dir] = dev
	d.alive.Add(1)
	d.crew.call(dev)
	return dev
}

// ended forgets a device that has ended, because of err or with its nodes.
func (d *Daemon) ended(dev *device, err error) {
	d.mu.Lock()
	delete(d.devices, dev.dir)
	again := dev.changed.Load()
	d.mu.Unlock()
	switch {
	case err != nil:
		d.group.Go(func() error { return err })
	case again:
		d.device(dev.dom, dev.devid) // its nodes came back while it ended
	default:
		dev.forget()
	}
	d.alive.Done()
}

// endDevices ends all devices when the daemon does, and waits for them.
func (d *Daemon) endDevices() error {
	<-d.life.Done()
	for _, dev := range d.snapshot() {
		d.crew.call(dev)
	}
	d.alive.Wait()
	d.crew.close()
	return d.life.Err()
}

// sweep removes what earlier daemons have left of channels that are no more.
func (d *Daemon) sweep() error {
	here := make(map[string]bool)
	for _, dev := range d.snapshot() {
		here[dev.spoolName()] = true
	}
	return errors.Join(d.spools.sweep(here), sweep(d.Descriptors, here))
}

// inherit is what an earlier daemon has kept of a channel; for its first device.
func (d *Daemon) inherit(channel string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := d.left[channel]
	delete(d.left, channel)
	return names
}

func (d *Daemon) snapshot() []*device {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*device, 0, len(d.devices))
	for _, dev := range d.devices {
		all = append(all, dev)
	}
	return all
}

func (d *Daemon) lookAtAll() {
	for _, dev := range d.snapshot() {
		dev.look()
	}
}

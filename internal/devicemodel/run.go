package devicemodel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/xenchan/xenchan/agent/firewall"
	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenbus"
	"github.com/xenchan/xenchan/xenstore"
)

// Config is what a device model needs.
type Config struct {
	Request
	// Store is the control domain's. Hypervisor opens the control domain's, which
	// is needed only where no daemon runs; the result is closed after use.
	Store      *xenstore.Store
	Hypervisor func(context.Context) (xen.Hypervisor, error)
	// RunDir is the daemon's.
	RunDir string
	// UserData is where libxl keeps what it knows of domains.
	UserData string
	// Hangup is closed when libxl wants it to end, with the domain.
	Hangup <-chan struct{}
	// Firewall says who may ask guest agents what; nil is anybody anything.
	Firewall *firewall.Current
	Log      *slog.Logger
}

// handOverWithin is how long a daemon may need for a domain's consoles.
const handOverWithin = 10 * time.Second

// talkWithin is how long libxl may need to talk to a device model that is ready.
const talkWithin = 10 * time.Second

// placePoll is how often it is looked whether a socket is there that is about to come.
const placePoll = 5 * time.Millisecond

// errEnd ends Run in good order.
var errEnd = errors.New("the domain has ended")

// model is one device model.
type model struct {
	Config
	tools  *toolstack.Toolstack
	domain toolstack.Domain
	home   string // of libxl's nodes about this device model
}

// Run is the device model of one domain until that ends, or answers a probe.
func Run(ctx context.Context, c Config) error {
	m := &model{
		Config: c, home: fmt.Sprintf("/local/domain/0/device-model/%v", c.DomID),
		tools:  &toolstack.Toolstack{Store: c.Store, RunDir: c.RunDir},
		domain: toolstack.Domain{ID: c.DomID, Name: c.Name},
	}
	group, all := errgroup.WithContext(ctx)
	server := &qmp{chardevs: func() []chardevInfo { return m.chardevs(all) }, log: c.Log}
	quit, talked := make(chan struct{}, 1), make(chan struct{}, 1)
	server.quit, server.left = func() { poke(quit) }, func() { poke(talked) }
	// Libxl connects as soon as it sees that the device model is ready.
	for _, monitor := range c.Monitors {
		l, err := monitor.listen()
		if err != nil {
			return fmt.Errorf("QMP socket %s: %w", monitor.ID, err)
		}
		group.Go(func() error { return server.serve(all, l) })
	}
	group.Go(func() error {
		select {
		case <-c.Hangup:
		case <-quit:
		case <-all.Done():
		}
		return errEnd
	})
	if !c.Probe {
		group.Go(func() error { return m.awaitEnd(all) })
		group.Go(func() error { return m.serve(all) })
		group.Go(func() error {
			// Until libxl has talked to us, what follows would only delay it.
			select {
			case <-talked:
			case <-time.After(talkWithin): // started again by hand
			case <-all.Done():
			}
			if err := m.restoreLost(all); err != nil && all.Err() == nil {
				c.Log.Error("a channel is missing", "error", err)
			}
			return nil // the others work
		})
	}
	if err := group.Wait(); !errors.Is(err, errEnd) && ctx.Err() == nil {
		return err
	}
	return nil
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// listen opens a monitor's socket in place of one that was left behind.
func (m Monitor) listen() (net.Listener, error) {
	if m.Path == "" {
		f := os.NewFile(uintptr(m.FD), m.ID)
		defer f.Close()
		return net.FileListener(f)
	}
	if info, err := os.Lstat(m.Path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(m.Path); err != nil {
			return nil, err
		}
	}
	return net.Listen("unix", m.Path)
}

// awaitEnd waits until the domain is gone: not every toolstack hangs up.
func (m *model) awaitEnd(ctx context.Context) error {
	err := m.Store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
		v := xenstore.NewValues(ctx, r)
		_, lives := v.Lookup(fmt.Sprintf("/local/domain/%v", m.DomID))
		return !lives, v.Err()
	})
	if err == nil {
		return errEnd
	}
	return err
}

// serve has the domain's consoles served: by the daemon, or by itself until the
// context ends.
func (m *model) serve(ctx context.Context) error {
	if !daemon.Listens(ctx, m.RunDir) {
		m.Log.Info("no daemon runs: serving the consoles of this domain alone", "domid", m.DomID)
		return m.serveAlone(ctx)
	}
	path, err := m.forbidden(ctx)
	if err != nil {
		return err
	}
	if path != "" {
		m.Log.Info("the daemon may not make a socket: serving the consoles of this domain alone", "domid", m.DomID, "path", path)
		return m.serveAlone(ctx)
	}
	if err := m.set("xenchan", toolstack.HandedOver); err != nil {
		return err
	}
	if err := m.awaitServed(ctx); err != nil {
		return err
	}
	m.Log.Info("the daemon serves the consoles of this domain", "domid", m.DomID)
	return m.ready()
}

// forbidden is the path of a channel where the daemon has no right to make a
// socket: libxl runs as root, and the daemon better does not.
func (m *model) forbidden(ctx context.Context) (path string, err error) {
	uid, err := daemon.UID(m.RunDir)
	if err != nil || uid == 0 {
		return "", err
	}
	channels, err := m.stock(ctx)
	for _, c := range channels {
		if c.Connection != channel.Socket {
			continue
		}
		dir, err := os.Stat(filepath.Dir(c.Path))
		if err != nil {
			return c.Path, nil
		}
		if dir.Sys().(*syscall.Stat_t).Uid != uid && dir.Mode().Perm()&0o002 == 0 {
			return c.Path, nil
		}
	}
	return "", err
}

// RunDir is the run directory of a device model that serves a domain alone, in that
// of the daemon; it can be asked as a daemon can.
func RunDir(runDir string, dom xen.DomID) string {
	return filepath.Join(runDir, fmt.Sprintf("device-model-%v", dom))
}

// serveAlone is a daemon for one domain, with a run directory of its own.
func (m *model) serveAlone(ctx context.Context) error {
	if err := m.set("xenchan", toolstack.Alone); err != nil {
		return err
	}
	hv, err := m.Hypervisor(ctx)
	if err != nil {
		return err
	}
	defer hv.Close()
	dir := RunDir(m.RunDir, m.DomID)
	defer func() {
		if m.hungUp() { // the domain goes too; else we may be started again
			os.RemoveAll(dir)
		}
	}()
	return daemon.Run(ctx, daemon.Config{
		Store: m.Store, Hypervisor: hv, RunDir: dir, DeviceModel: m.DomID, Firewall: m.Firewall, Log: m.Log,
		Ready: func() {
			if err := m.ready(); err != nil {
				m.Log.Error("libxl is not told that the device model is ready", "error", err)
			}
		},
	})
}

func (m *model) hungUp() bool {
	select {
	case <-m.Hangup:
		return true
	default:
		return false
	}
}

// awaitServed waits until the daemon has taken over all stock consoles of the
// domain, and clients can connect to them.
func (m *model) awaitServed(ctx context.Context) error {
	soon, cancel := context.WithTimeout(ctx, handOverWithin)
	defer cancel()
	channels, err := m.stock(soon)
	if err != nil {
		return err
	}
	for _, c := range channels {
		if err := m.awaitConsole(soon, c); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("the daemon does not serve %s of domain %v: see what it logs: %w", c.Name, m.DomID, err)
		}
	}
	return nil
}

func (m *model) awaitConsole(ctx context.Context, c toolstack.Channel) error {
	err := m.Store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
		v := xenstore.NewValues(ctx, r)
		v.Prefetch(c.Backend+"/state", c.Frontend+"/tty")
		taken := xenbus.ParseState(v.Get(c.Backend+"/state")) > xenbus.Initialising
		return taken && (c.Connection == channel.Socket || v.Get(c.Frontend+"/tty") != ""), v.Err()
	})
	for err == nil && c.Connection == channel.Socket {
		if _, missing := os.Lstat(c.Path); missing == nil {
			break
		}
		select {
		case <-time.After(placePoll):
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return err
}

// stock are the channels that a QEMU would have served.
func (m *model) stock(ctx context.Context) ([]toolstack.Channel, error) {
	all, err := m.tools.Channels(ctx, m.domain)
	return slices.DeleteFunc(all, func(c toolstack.Channel) bool {
		return c.Type != toolstack.StockType || c.BackendDomID != 0
	}), err
}

// ready tells libxl that it may go on.
func (m *model) ready() error {
	return m.set("state", "running")
}

// set writes one of libxl's nodes about this device model, unless libxl has
// removed them: then the domain is being destroyed.
func (m *model) set(node, value string) error {
	ctx := context.Background() // quick, and not to be cut off by an end that it may cause
	err := m.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		v := xenstore.NewValues(ctx, tx)
		if _, ok := v.Lookup(m.home); !ok {
			return errors.Join(v.Err(), errEnd)
		}
		return tx.Write(ctx, m.home+"/"+node, value)
	})
	if err != nil && !errors.Is(err, errEnd) {
		return fmt.Errorf("write %s/%s: %w", m.home, node, err)
	}
	return err
}

// chardevs is what libxl and people with a QMP shell see of the channels.
func (m *model) chardevs(ctx context.Context) []chardevInfo {
	rows := []chardevInfo{}
	for _, monitor := range m.Monitors {
		rows = append(rows, chardevInfo{Label: monitor.ID, Filename: "unix:" + monitor.Path + ",server=on", FrontendOpen: true})
	}
	if m.Probe {
		return rows
	}
	channels, err := m.stock(ctx)
	if err != nil {
		m.Log.Warn("query-chardev", "error", err)
	}
	for _, c := range channels {
		file := "pty:" + c.TTY
		if c.Connection == channel.Socket {
			file = "unix:" + c.Path + ",server=on"
		}
		rows = append(rows, chardevInfo{Label: fmt.Sprintf("%s%d", channelPrefix, c.DevID), Filename: file, FrontendOpen: true})
	}
	return rows
}

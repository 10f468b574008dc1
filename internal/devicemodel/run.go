// Package devicemodel is the device model of a domain, beyond what each new domain waits
// for (package standin): where no daemon runs it serves the domain's consoles by itself,
// and it makes the channel that libxl has lost.
package devicemodel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/xenchan/xenchan/agent/firewall"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/standin"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenbus"
	"github.com/xenchan/xenchan/xenstore"
)

// Config is what a device model needs.
type Config struct {
	standin.Request
	// Loop listens where libxl talks. Run runs it.
	Loop *standin.Loop
	// Store is the control domain's. Hypervisor opens the control domain's; the result
	// is closed after use.
	Store      *xenstore.Store
	Hypervisor func(context.Context) (xen.Hypervisor, error)
	// HasQEMU says why there is no real QEMU on this host, if there is none.
	HasQEMU func() error
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

// talkWithin is how long libxl may need to talk to a device model that is ready.
const talkWithin = 10 * time.Second

// errEnd ends Run in good order.
var errEnd = errors.New("the domain has ended")

// model is one device model.
type model struct {
	Config
	tools  *toolstack.Toolstack
	domain toolstack.Domain
	home   string // of libxl's nodes about this device model
}

func newModel(c Config) *model {
	return &model{
		Config: c, home: fmt.Sprintf("/local/domain/0/device-model/%v", c.DomID),
		tools:  &toolstack.Toolstack{Store: c.Store, RunDir: c.RunDir},
		domain: toolstack.Domain{ID: c.DomID, Name: c.Name},
	}
}

// Run serves the consoles of one domain until that ends, or needs a QEMU, which is a
// [standin.ErrQEMU] that says for what.
func Run(ctx context.Context, c Config) error {
	m := newModel(c)
	group, all := errgroup.WithContext(ctx)
	talked := make(chan struct{}, 1)
	c.Loop.Left = func() { poke(talked) }
	c.Loop.TTYs = func() map[int]string { return m.ttys(all) }
	group.Go(func() error {
		stop := context.AfterFunc(all, c.Loop.Stop)
		defer stop()
		return errors.Join(c.Loop.Run(), errEnd)
	})
	group.Go(func() error {
		select {
		case <-c.Hangup:
		case <-all.Done():
		}
		return errEnd
	})
	group.Go(func() error { return m.awaitEnd(all) })
	group.Go(func() error { return m.awaitNeed(all) })
	group.Go(func() error { return m.serveAlone(all) })
	group.Go(func() error {
		// Until libxl has talked to us, what follows would only delay it.
		select {
		case <-talked:
		case <-time.After(talkWithin): // started again by hand
		case <-all.Done():
		}
		if err := RestoreLost(all, c); err != nil && all.Err() == nil {
			c.Log.Error("a channel is missing", "error", err)
		}
		return nil // the others work
	})
	err := group.Wait()
	switch {
	case errors.Is(err, standin.ErrQEMU):
		return errors.Join(err, m.giveWay())
	case errors.Is(err, errEnd) || ctx.Err() != nil:
		return nil
	}
	return err
}

// awaitNeed waits for a device that only QEMU serves: libxl adds some when the device
// model is there.
func (m *model) awaitNeed(ctx context.Context) error {
	var why string
	err := m.Store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
		var err error
		why, err = NeedsQEMU(ctx, r, m.Request)
		return why != "", err
	})
	if err != nil {
		return err
	}
	if err := m.HasQEMU(); err != nil {
		m.Log.Error("the domain needs a real QEMU, and has its consoles alone", "why", why, "error", err)
		return nil
	}
	return fmt.Errorf("%w: %s", standin.ErrQEMU, why)
}

// giveWay leaves nothing that says that we serve the domain. A QEMU takes over consoles
// that nobody has begun to serve (xen-legacy-backend.c), with the ring that there is.
func (m *model) giveWay() error {
	ctx, cancel := context.WithTimeout(context.Background(), talkWithin)
	defer cancel()
	return errors.Join(os.RemoveAll(RunDir(m.RunDir, m.DomID)), m.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		v, p := xenstore.NewValues(ctx, tx), tx.Pipeline()
		root := fmt.Sprintf("/local/domain/0/backend/console/%v", m.DomID)
		for _, devid := range v.List(root) {
			if v.Get(fmt.Sprintf("/local/domain/%v/device/console/%s/type", m.DomID, devid)) == toolstack.StockType {
				p.Write(root+"/"+devid+"/state", xenbus.Initialising.Decimal())
			}
		}
		p.Remove(m.home + "/xenchan")
		return errors.Join(v.Err(), p.Wait(ctx))
	}))
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// awaitEnd waits until the domain is gone: not every toolstack hangs up.
func (m *model) awaitEnd(ctx context.Context) error {
	released, err := m.Store.Watch(ctx, "@releaseDomain")
	if err != nil {
		return err
	}
	defer released.Close()
	for {
		lives, err := m.Store.IsIntroduced(ctx, m.DomID)
		if err != nil {
			return err
		}
		if !lives {
			return errEnd
		}
		select {
		case _, ok := <-released.C():
			if !ok {
				return released.Err()
			}
			released.Take()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
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
			if err := m.set("state", "running"); err != nil {
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

// ttys are the terminals of the domain's consoles.
func (m *model) ttys(ctx context.Context) map[int]string {
	all, err := m.tools.Channels(ctx, m.domain)
	if err != nil {
		m.Log.Warn("query-chardev", "error", err)
	}
	all = slices.DeleteFunc(all, func(c toolstack.Channel) bool { return c.Type != toolstack.StockType || c.BackendDomID != 0 })
	ttys := make(map[int]string, len(all))
	for _, c := range all {
		ttys[c.DevID] = c.TTY
	}
	return ttys
}

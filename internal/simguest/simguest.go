// Package simguest is a guest for the embedded host: a process that behaves on
// the wire as a Linux guest with the hvc_xen driver does, good and bad. Any
// program can be the agent in it: each channel is a terminal with the channel's
// name in one directory.
//
// What it takes over from Linux (drivers/tty/hvc/hvc_xen.c and hvc_console.c):
//
//   - it offers a ring as soon as it sees the device, without asking the backend;
//   - it writes in bursts of at most 256 bytes, with one event each;
//   - while the ring is full the writer spins, and the whole guest stands still;
//   - a terminal that nobody holds open reads nothing, so that bytes wait in the ring;
//   - a terminal is in line mode with echo when it is opened afresh;
//   - as with xenchan-guest, it says on a node of its own who has a terminal open;
//   - it knows a console by the last digit of its devid, and has seven terminals.
package simguest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

const devices = "device/console" // in the guest's home

// Config is what a guest runs on.
type Config struct {
	Store      *xenstore.Store // as this domain
	Hypervisor xen.Hypervisor
	// Dir is where the terminals are, DIR/NAME. It is made and emptied.
	Dir string
	Log *slog.Logger
}

// guest is the running guest. One goroutine for each device, joined by Run.
type guest struct {
	Config

	vcpu sync.Mutex // held by the code that runs in the guest's kernel

	mu    sync.Mutex
	known map[string]bool // devids with a goroutine; guarded by mu
	hvc   map[byte]string // last digit to devid: what hvc_xen can tell apart; guarded by mu
	ttys  int             // terminals in use; guarded by mu
	again chan struct{}   // capacity 1: a goroutine has ended, look for its device again
}

// Run is the guest's life.
func Run(ctx context.Context, c Config) error {
	g := &guest{Config: c, known: make(map[string]bool), hvc: make(map[byte]string), again: make(chan struct{}, 1)}
	if g.Log == nil {
		g.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.RemoveAll(g.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(g.Dir, 0o755); err != nil {
		return err
	}
	watch, err := g.Store.Watch(ctx, devices)
	if err != nil {
		return err
	}
	defer watch.Close()
	group, all := errgroup.WithContext(ctx)
	group.Go(func() error {
		for {
			if err := g.probe(all, group); err != nil {
				return err
			}
			select {
			case _, ok := <-watch.C():
				if !ok {
					return watch.Err()
				}
				watch.Take()
			case <-g.again:
			case <-all.Done():
				return all.Err()
			}
		}
	})
	if err := group.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// probe starts a goroutine for each device that has none.
func (g *guest) probe(ctx context.Context, group *errgroup.Group) error {
	v := xenstore.NewValues(ctx, g.Store)
	for _, id := range v.List(devices) {
		dir := path.Join(devices, id)
		if v.Get(dir+"/state") == "" || v.Get(dir+"/backend") == "" || !g.claim(id) {
			continue
		}
		group.Go(func() error {
			err := g.device(ctx, id, dir)
			g.release(id)
			return err
		})
	}
	return v.Err()
}

// claim reports whether the driver takes a device it does not have yet.
func (g *guest) claim(id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	digit := id[len(id)-1]
	if g.known[id] || digit == '0' || g.hvc[digit] != "" {
		return false
	}
	g.known[id] = true
	g.hvc[digit] = id
	return true
}

func (g *guest) release(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.known, id)
	delete(g.hvc, id[len(id)-1])
	select {
	case g.again <- struct{}{}:
	default:
	}
}

// device runs one console until its nodes are gone.
func (g *guest) device(ctx context.Context, id, dir string) error {
	log := g.Log.With("devid", id)
	var tty *terminal
	front := console.Frontend{
		Store: g.Store, Hypervisor: g.Hypervisor, Path: dir,
		Attached: func(c *console.Conn) {
			// Read anew each time: another channel may have taken this one's place.
			name, err := g.Store.Read(ctx, dir+"/name")
			if err != nil || channel.CheckName(name) != nil {
				name = "console-" + id
			}
			if tty, err = g.openTerminal(filepath.Join(g.Dir, name), dir, c); err != nil {
				log.Error("no terminal", "error", err)
				return
			}
			log.Info("terminal is up", "path", tty.link)
		},
		Detached: func(c *console.Conn) {
			c.HangUp()
			if tty != nil {
				tty.close()
				tty = nil
			}
		},
	}
	err := front.Run(ctx)
	if ctx.Err() == nil && err != nil && !vanished(err) {
		return fmt.Errorf("console %s: %w", id, err)
	}
	log.Info("device is gone")
	return ctx.Err()
}

// vanished says that an error comes of nodes that went while they were used.
func vanished(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || strings.Contains(err.Error(), "no backend named")
}

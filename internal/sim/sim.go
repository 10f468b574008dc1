// Package sim runs a whole embedded host in one directory: the hypervisor and
// its xenstore in this process, and a daemon and the guests as processes of their
// own, so that each can be killed by itself, as on a real host.
package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/fdstore"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xenstore"
)

// Config is what an embedded host is made of.
type Config struct {
	Dir     string
	Domains []Domain
	// Daemon says that the host runs a daemon of its own, and starts it again
	// when it dies.
	Daemon bool
	// Command is the command line that begins "xenchan"; guests and the daemon
	// are started with it. Empty means this program.
	Command []string
	// Stderr takes what the processes say.
	Stderr io.Writer
	Log    *slog.Logger
}

// Domain is a guest to start with.
type Domain struct {
	Name, UUID string
	Channels   []channel.Spec
}

// Host is a running embedded host. It owns a goroutine for each process, and one
// that serves the control socket.
type Host struct {
	cfg   Config
	hv    *xensim.Host
	store *xenstore.Store
	tools *toolstack.Toolstack
	// running ends when the host is closed.
	running context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup
	guests  guests
	control *http.Server
	manager *fdstore.Manager // of the daemon; nil without one

	channels []made
}

type made struct {
	toolstack.Channel
	domain string
}

// RunDir is where the daemon of the host in dir keeps its sockets.
func RunDir(dir string) string { return filepath.Join(dir, "run") }

// GuestDir is where the terminals of a domain's channels are.
func GuestDir(dir, domain string) string { return filepath.Join(dir, "guests", domain, "xen-channel") }

// Start makes the host and its domains, in the order given. It does not wait
// for them: see Ready. What it started is stopped again when it fails.
func Start(ctx context.Context, cfg Config) (host *Host, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Command) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		cfg.Command = []string{self}
	}
	hv, err := xensim.Start(cfg.Dir, xensim.Config{})
	if err != nil {
		return nil, fmt.Errorf("start an embedded host in %s: %w", cfg.Dir, err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	h := &Host{cfg: cfg, hv: hv, running: running, stop: stop, guests: guests{all: make(map[string]guest)}}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	if h.store, err = xenstore.Open(ctx, hv.StorePath()); err != nil {
		return nil, err
	}
	h.tools = &toolstack.Toolstack{Store: h.store, RunDir: RunDir(cfg.Dir)}
	if cfg.Daemon {
		if err = h.supervise(); err != nil {
			return nil, err
		}
	}
	for _, d := range cfg.Domains {
		if err = h.create(ctx, d); err != nil {
			return nil, err
		}
	}
	if err = h.serveControl(ctx); err != nil {
		return nil, err
	}
	return h, nil
}

func (h *Host) command(args ...string) *exec.Cmd {
	args = append(append([]string{}, h.cfg.Command[1:]...), args...)
	cmd := exec.CommandContext(h.running, h.cfg.Command[0], append(args, "--host", "sim:"+h.cfg.Dir)...)
	cmd.Stderr = h.cfg.Stderr
	// ^C at a terminal is for this process, which then stops the others in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// writePID leaves a process's number in DIR/NAME.pid, for those who want to
// look at it or kill it. Whoever reads it finds it whole.
func (h *Host) writePID(name string, pid int) error {
	path := h.pidFile(name)
	if err := os.WriteFile(path+".new", fmt.Appendln(nil, pid), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (h *Host) pidFile(name string) string { return filepath.Join(h.cfg.Dir, name+".pid") }

// Ready waits until every channel can be used from both ends, or, without a
// daemon, until its terminal in the guest is there.
func (h *Host) Ready(ctx context.Context) error {
	if h.cfg.Daemon { // which a host without channels has to wait for too
		if err := WaitFile(ctx, filepath.Join(RunDir(h.cfg.Dir), "daemon.sock")); err != nil {
			return err
		}
	}
	for _, c := range h.channels {
		if h.cfg.Daemon {
			if err := h.tools.WaitConnected(ctx, c.Channel); err != nil {
				return fmt.Errorf("channel %s of %s: %w", c.Name, c.domain, err)
			}
			if err := h.waitEndpoint(ctx, c.Channel); err != nil {
				return fmt.Errorf("channel %s of %s: %w", c.Name, c.domain, err)
			}
		}
		tty := filepath.Join(GuestDir(h.cfg.Dir, c.domain), c.Name)
		if err := WaitFile(ctx, tty); err != nil {
			return fmt.Errorf("channel %s of %s: %w", c.Name, c.domain, err)
		}
	}
	return nil
}

func (h *Host) waitEndpoint(ctx context.Context, c toolstack.Channel) error {
	if c.Connection == channel.Socket {
		return WaitFile(ctx, c.Path)
	}
	return h.store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
		v := xenstore.NewValues(ctx, r)
		return v.Get(c.Frontend+"/tty") != "", v.Err()
	})
}

// WaitFile waits until there is something at path.
func WaitFile(ctx context.Context, path string) error {
	for {
		if _, err := os.Lstat(path); err == nil {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", path, ctx.Err())
		}
	}
}

// Domains is what the hypervisor knows of its domains.
func (h *Host) Domains() []xensim.DomainInfo { return h.hv.Domains() }

// Close stops the daemon and the guests, which find their host still there, and
// then the host, whose sockets are removed.
func (h *Host) Close() error {
	h.stop()
	var err error
	if h.control != nil {
		err = h.control.Shutdown(context.Background())
	}
	h.wg.Wait()
	pids, globErr := filepath.Glob(filepath.Join(h.cfg.Dir, "*.pid"))
	err = errors.Join(err, globErr)
	for _, file := range pids {
		err = errors.Join(err, os.Remove(file))
	}
	if h.manager != nil {
		// The sockets that the daemon has left to the next one, which will not come.
		err = errors.Join(err, h.manager.Close(), os.RemoveAll(RunDir(h.cfg.Dir)))
	}
	if h.store != nil {
		err = errors.Join(err, h.store.Close())
	}
	return errors.Join(err, h.hv.Close())
}

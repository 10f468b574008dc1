package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xendev"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xenstore"
)

// xenRunDir is where the daemon of a real host keeps its sockets.
const xenRunDir = "/run/xenchan"

// xenChannelsDir is where the drop-in files of a real host are.
const xenChannelsDir = "/etc/xenchan/channels.d"

// xenFirewallDir is where a real host says who may ask guest agents what.
const xenFirewallDir = "/etc/xenchan/firewall.d"

// xenReceiptsDir is where a real host keeps the receipts for secrets.
const xenReceiptsDir = "/var/lib/xenchan/receipts"

// where is the host that a command works on.
type where struct {
	dir string // of the embedded host; empty for real Xen
	// custom says that the xenstore was named by its path, so that nothing is
	// known for sure of the daemon of its host.
	custom bool
}

// locate reads --host, or the environment.
func (a *app) locate() (where, error) {
	custom := a.store != "" || os.Getenv("XENSTORED_PATH") != ""
	name, from := a.host, "--host"
	if name == "" {
		name, from = os.Getenv("XENCHAN_HOST"), "XENCHAN_HOST"
	}
	switch dir, isSim := strings.CutPrefix(name, "sim:"); {
	case isSim && dir != "":
		abs, err := filepath.Abs(dir)
		return where{dir: abs, custom: a.store != ""}, err
	case name == "xen":
		return where{custom: custom}, nil
	case name == "auto", name == "":
		// Xen without its drivers is Xen too: what needs them says which to load.
		if _, err := os.Stat("/dev/xen/evtchn"); err != nil && !custom && !xendev.OnXen() {
			return where{}, fmt.Errorf("this is not a Xen host (there is no /dev/xen/evtchn); for an embedded host give --host sim:DIR, or set XENCHAN_HOST; `xenchan demo` shows one")
		}
		return where{custom: custom}, nil
	default:
		return where{}, usagef("%s: %q is no host; give auto, xen or sim:DIR", from, name)
	}
}

func (w where) runDir() string {
	if w.dir != "" {
		return sim.RunDir(w.dir)
	}
	return xenRunDir
}

// receiptsDir is where the receipts for secrets are: they outlive a boot of the host.
func (w where) receiptsDir() string {
	if w.dir != "" {
		return filepath.Join(w.dir, "receipts")
	}
	return xenReceiptsDir
}

func (w where) channelsDir() string {
	if w.dir != "" {
		return filepath.Join(w.dir, "channels.d")
	}
	return xenChannelsDir
}

func (w where) firewallDir() string {
	if w.dir != "" {
		return filepath.Join(w.dir, "firewall.d")
	}
	return xenFirewallDir
}

// openStore connects to the host's xenstore as its control domain.
func (a *app) openStore(ctx context.Context, w where) (*xenstore.Store, error) {
	if w.dir == "" || a.store != "" {
		return xenstore.Open(ctx, a.store)
	}
	store, err := xenstore.Open(ctx, filepath.Join(w.dir, "xenstored.sock"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("no embedded host runs in %s (start one with `xenchan sim %s`): %w", w.dir, w.dir, err)
	}
	return store, err
}

// openHypervisor is the host's hypervisor, as its control domain or, on real
// Xen, as whatever domain this is.
func (a *app) openHypervisor(ctx context.Context, w where, dom xen.DomID) (xen.Hypervisor, error) {
	if w.dir != "" {
		processors(1)
		return xensim.Connect(ctx, w.dir, dom)
	}
	processors(2)
	return xendev.Open(xendev.Config{StorePath: a.store})
}

// processors has this process run on so many processors at a time, unless GOMAXPROCS
// in the environment says otherwise. What it does for each message is over before
// another processor is awake, and to wake one and send it back to sleep costs more than
// to do it; so one is best, but real Xen's events are waited for in the kernel, where
// Go counts that as one of them. See docs/performance.md.
func processors(n int) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(n)
	}
}

// toolstack connects to the host for a command. The caller closes the store.
func (a *app) toolstack(ctx context.Context) (*toolstack.Toolstack, error) {
	w, err := a.locate()
	if err != nil {
		return nil, err
	}
	store, err := a.openStore(ctx, w)
	if err != nil {
		return nil, err
	}
	return &toolstack.Toolstack{Store: store, RunDir: w.runDir()}, nil
}

// served reports whether this host's own domain serves a channel, so that its
// host end is here, and not in a driver domain.
func served(ctx context.Context, tools *toolstack.Toolstack, c toolstack.Channel) bool {
	self, err := tools.Store.Read(ctx, "domid")
	if err != nil {
		self = "0"
	}
	return self == strconv.Itoa(int(c.BackendDomID))
}

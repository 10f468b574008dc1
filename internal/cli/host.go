package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xendev"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xenstore"
)

// xenRunDir is where the daemon of a real host keeps its sockets.
const xenRunDir = "/run/xenchan"

// where is the host that a command works on.
type where struct {
	dir string // of the embedded host; empty for real Xen
}

// locate reads --host, or the environment.
func (a *app) locate() (where, error) {
	name, from := a.host, "--host"
	if name == "" {
		name, from = os.Getenv("XENCHAN_HOST"), "XENCHAN_HOST"
	}
	switch dir, isSim := strings.CutPrefix(name, "sim:"); {
	case isSim && dir != "":
		abs, err := filepath.Abs(dir)
		return where{dir: abs}, err
	case name == "xen":
		return where{}, nil
	case name == "auto", name == "":
		if _, err := os.Stat("/dev/xen/evtchn"); err != nil && a.store == "" && os.Getenv("XENSTORED_PATH") == "" {
			return where{}, fmt.Errorf("this is not a Xen host (there is no /dev/xen/evtchn); for an embedded host give --host sim:DIR, or set XENCHAN_HOST")
		}
		return where{}, nil
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

// openStore connects to the host's xenstore as its control domain.
func (a *app) openStore(ctx context.Context, w where) (*xenstore.Store, error) {
	path := a.store
	if path == "" && w.dir != "" {
		path = filepath.Join(w.dir, "xenstored.sock")
	}
	return xenstore.Open(ctx, path)
}

// openHypervisor is the host's hypervisor, as its control domain or, on real
// Xen, as whatever domain this is.
func (a *app) openHypervisor(ctx context.Context, w where, dom xen.DomID) (xen.Hypervisor, error) {
	if w.dir != "" {
		return xensim.Connect(ctx, w.dir, dom)
	}
	return xendev.Open(xendev.Config{StorePath: a.store})
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

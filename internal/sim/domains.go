package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"unicode"

	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xensim"
)

// guests are the processes of the running domains, by the domains' names: no two
// domains share one.
type guests struct {
	mu  sync.Mutex
	all map[string]guest // guarded by mu
}

type guest struct {
	id    xen.DomID
	ended <-chan struct{} // closed when the process and its files are gone
}

// CheckName says why a domain of an embedded host cannot have a name, which is
// a directory's there.
func CheckName(name string) error {
	odd := strings.ContainsFunc(name, func(r rune) bool { return r == '/' || !unicode.IsPrint(r) })
	if name == "" || name == "." || name == ".." || odd {
		return fmt.Errorf("name %q cannot be a directory's name, as an embedded host needs it: change it", name)
	}
	return nil
}

// CreateDomain makes a domain and leaves it paused, as `xl create -p` does: its
// nodes are there, and no guest runs yet. Its channels are not made.
func (h *Host) CreateDomain(d Domain) (toolstack.Domain, error) {
	if err := CheckName(d.Name); err != nil {
		return toolstack.Domain{}, err
	}
	dom, err := h.hv.CreateDomain(xensim.DomainConfig{Name: d.Name, UUID: d.UUID})
	if errors.Is(err, syscall.EEXIST) {
		err = fmt.Errorf("a domain of this name or uuid exists: %w", syscall.EEXIST)
	}
	if err != nil {
		return toolstack.Domain{}, fmt.Errorf("create domain %s: %w", d.Name, err)
	}
	return toolstack.Domain{ID: dom.ID, Name: dom.Name, UUID: dom.UUID}, nil
}

// UnpauseDomain starts the guest of a domain; one that runs is left alone.
func (h *Host) UnpauseDomain(ctx context.Context, id xen.DomID) error {
	d, err := h.find(id)
	if err != nil {
		return err
	}
	h.guests.mu.Lock()
	defer h.guests.mu.Unlock()
	if g, ok := h.guests.all[d.Name]; ok {
		if g.id == id {
			return nil
		}
		// A domain of this name has gone, and its process is about to.
		select {
		case <-g.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ended, err := h.startGuest(d)
	if err == nil {
		h.guests.all[d.Name] = guest{id, ended}
	}
	return err
}

func (h *Host) find(id xen.DomID) (toolstack.Domain, error) {
	for _, d := range h.hv.Domains() {
		if d.ID == id && id != 0 && d.State != xensim.StateDying {
			return toolstack.Domain{ID: id, Name: d.Name, UUID: d.UUID}, nil
		}
	}
	return toolstack.Domain{}, fmt.Errorf("%w: %v", toolstack.ErrNoDomain, id)
}

// startGuest starts the process of a domain; the channel is closed at its end.
func (h *Host) startGuest(d toolstack.Domain) (<-chan struct{}, error) {
	cmd := h.command("sim-guest", d.ID.String(), "--dir", GuestDir(h.cfg.Dir, d.Name))
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the guest %s: %w", d.Name, err)
	}
	h.cfg.Log.Info("guest runs", "domain", d.Name, "domid", d.ID, "pid", cmd.Process.Pid)
	err := h.writePID("guest-"+d.Name, cmd.Process.Pid)
	ended := make(chan struct{})
	h.wg.Go(func() {
		defer close(ended)
		err := cmd.Wait()
		if _, there := h.find(d.ID); there == nil && h.running.Err() == nil {
			h.cfg.Log.Warn("guest has crashed", "domain", d.Name, "error", err)
		}
		if err := h.clean(d.Name); err != nil {
			h.cfg.Log.Warn("what a guest has left", "domain", d.Name, "error", err)
		}
	})
	return ended, err
}

// clean removes the files of a guest that has ended.
func (h *Host) clean(name string) error {
	err := os.RemoveAll(filepath.Dir(GuestDir(h.cfg.Dir, name)))
	if pid := os.Remove(h.pidFile("guest-" + name)); !errors.Is(pid, fs.ErrNotExist) {
		err = errors.Join(err, pid)
	}
	return err
}

// DestroyDomain ends a domain as `xl destroy` does, and waits for its guest to
// be gone with its files.
func (h *Host) DestroyDomain(ctx context.Context, id xen.DomID) error {
	d, err := h.find(id)
	if err != nil {
		return err
	}
	if err := h.hv.DestroyDomain(id); err != nil {
		return err
	}
	h.guests.mu.Lock()
	g, ok := h.guests.all[d.Name]
	h.guests.mu.Unlock()
	if !ok || g.id != id {
		return nil
	}
	select {
	case <-g.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// RebootDomain does what xl does when a guest reboots: the domain is destroyed
// and made anew, with another domid. It has no channels then, of which xl does
// not know either.
func (h *Host) RebootDomain(ctx context.Context, id xen.DomID) (toolstack.Domain, error) {
	d, err := h.find(id)
	if err != nil {
		return d, err
	}
	if err := h.DestroyDomain(ctx, id); err != nil {
		return d, err
	}
	if d, err = h.CreateDomain(Domain{Name: d.Name, UUID: d.UUID}); err != nil {
		return d, err
	}
	return d, h.UnpauseDomain(ctx, d.ID)
}

// create makes a domain that the host starts with, and its channels.
func (h *Host) create(ctx context.Context, d Domain) error {
	dom, err := h.CreateDomain(d)
	if err != nil {
		return err
	}
	for _, spec := range d.Channels {
		c, err := h.tools.Attach(ctx, dom, spec)
		if err != nil {
			return err
		}
		h.channels = append(h.channels, made{c, d.Name})
	}
	return h.UnpauseDomain(ctx, dom.ID)
}

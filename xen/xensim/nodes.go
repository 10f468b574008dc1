package xensim

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// nodes writes to the store what Xen's toolstack writes for the host and its
// domains (libxl_create.c and libxl_domain.c say what and with which
// permissions).
type nodes struct{ store *xenstore.Store }

// entry is a node to write; without perms it inherits those of its parent.
type entry struct {
	path  string
	value string
	perms wire.Perms
}

// private is for the toolstack alone; readable also for a guest to read;
// writable for a guest to write.
func private() wire.Perms { return wire.Perms{{Access: wire.AccessNone}} }

func readable(d xen.DomID) wire.Perms {
	return wire.Perms{{Access: wire.AccessNone}, {Access: wire.AccessRead, DomID: uint16(d)}}
}

func writable(d xen.DomID) wire.Perms {
	return wire.Perms{{Access: wire.AccessNone, DomID: uint16(d)}}
}

// addHost writes the nodes that are there before the first guest.
func (n nodes) addHost(ctx context.Context) error {
	return n.write(ctx, []entry{
		{"/tool", "", private()},
		{"/libxl", "", private()},
		{"/vm", "", private()},
		{"/local", "", private()},
		{"/local/domain", "", private()},
		{"/local/domain/0", "", private()},
		{"/local/domain/0/name", "Domain-0", nil},
		{"/local/domain/0/domid", "0", nil},
		{"/local/domain/0/backend", "", private()},
	})
}

func (n nodes) addDomain(ctx context.Context, d *domain) error {
	home, vm, lib := homePath(d.id), "/vm/"+d.uuid, libPath(d.id)
	ro, rw := readable(d.id), writable(d.id)
	return n.write(ctx, []entry{
		{home, "", ro},
		{vm, "", ro},
		{vm + "/name", d.name, nil},
		{vm + "/uuid", d.uuid, nil},
		{lib, "", private()},
		{lib + "/type", "pvh", nil},
		{lib + "/dm-version", "qemu_xen", nil},
		{home + "/vm", vm, nil},
		{home + "/name", d.name, nil},
		{home + "/domid", d.id.String(), nil},
		{home + "/cpu/0/availability", "online", nil},
		{home + "/memory", "", ro},
		{home + "/device", "", ro},
		{home + "/control", "", ro},
		{home + "/control/shutdown", "", rw},
		{home + "/control/feature-poweroff", "", rw},
		{home + "/control/feature-reboot", "", rw},
		{home + "/control/feature-suspend", "", rw},
		{home + "/control/sysrq", "", rw},
		{home + "/control/platform-feature-multiprocessor-suspend", "1", nil},
		{home + "/control/platform-feature-xs_reset_watches", "1", nil},
		{home + "/data", "", rw},
		{home + "/drivers", "", rw},
		{home + "/feature", "", rw},
		{home + "/attr", "", rw},
		{home + "/error", "", rw},
		{home + "/console", "", ro},
		{home + "/console/backend", "/local/domain/0/backend/console/" + d.id.String() + "/0", nil},
		{home + "/console/backend-id", "0", nil},
		{home + "/console/limit", "1048576", nil},
		{home + "/console/type", "xenconsoled", nil},
		{home + "/console/output", "pty", nil},
		{home + "/console/tty", "", nil},
		// The last of the consoles that libxl writes, and the first that it
		// removes: a domain without it is being made or destroyed.
		{lib + "/device/console/0", "", private()},
		{lib + "/device/console/0/frontend", home + "/console", nil},
		{lib + "/device/console/0/backend", "/local/domain/0/backend/console/" + d.id.String() + "/0", nil},
	})
}

// write makes the nodes in one transaction.
func (n nodes) write(ctx context.Context, entries []entry) error {
	return n.store.Tx(ctx, func(tx *xenstore.Tx) error {
		for _, e := range entries {
			if err := tx.Write(ctx, e.path, e.value); err != nil {
				return err
			}
			if e.perms == nil {
				continue
			}
			if err := tx.SetPerms(ctx, e.path, e.perms); err != nil {
				return err
			}
		}
		return nil
	})
}

// removeDomain removes a domain's devices, as /libxl lists them, and then its
// own nodes.
func (n nodes) removeDomain(ctx context.Context, d *domain) error {
	lib := libPath(d.id)
	kinds, err := n.list(ctx, lib+"/device")
	if err != nil {
		return err
	}
	for _, kind := range kinds {
		devs, err := n.list(ctx, path.Join(lib, "device", kind))
		if err != nil {
			return err
		}
		for _, dev := range devs {
			if err := n.removeDevice(ctx, path.Join(lib, "device", kind, dev)); err != nil {
				return err
			}
		}
	}
	for _, p := range []string{"/vm/" + d.uuid, homePath(d.id), lib} {
		if err := n.store.Remove(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// removeDevice removes a device's three directories in one transaction, and the
// parents that this leaves empty.
func (n nodes) removeDevice(ctx context.Context, lib string) error {
	return n.store.Tx(ctx, func(tx *xenstore.Tx) error {
		for _, end := range []string{"backend", "frontend"} {
			p, err := tx.Read(ctx, lib+"/"+end)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := removeUp(ctx, tx, p); err != nil {
				return err
			}
		}
		return tx.Remove(ctx, lib)
	})
}

// removeUp removes a device's node, and its parents as long as they are empty
// and inside a backend or device directory.
func removeUp(ctx context.Context, tx *xenstore.Tx, p string) error {
	if !strings.HasPrefix(p, "/local/domain/") || xenstore.ValidPath(p) != nil {
		return nil // nothing that a toolstack has written
	}
	if err := tx.Remove(ctx, p); err != nil {
		return err
	}
	for p = path.Dir(p); len(strings.Split(p, "/")) > 5; p = path.Dir(p) {
		left, err := tx.List(ctx, p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || len(left) > 0 {
			return err
		}
		if err := tx.Remove(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// list is the children of a node, none if it is absent.
func (n nodes) list(ctx context.Context, p string) ([]string, error) {
	names, err := n.store.List(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

func homePath(id xen.DomID) string { return "/local/domain/" + id.String() }
func libPath(id xen.DomID) string  { return "/libxl/" + id.String() }

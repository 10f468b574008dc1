package toolstack

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenbus"
	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// limit is what libxl writes as the frontend's "limit", in bytes. Backends other
// than ours take it for the size of their buffer.
const limit = "1048576"

// Attach gives a domain one more channel, running or not. Either all nodes are
// written or, when there is an error, none. The spec's Path is filled in.
func (t *Toolstack) Attach(ctx context.Context, d Domain, spec channel.Spec) (Channel, error) {
	return t.attach(ctx, d, spec, attached)
}

// AttachStock is [Toolstack.Attach] for a channel that libxl should have made: it
// belongs to whoever is the domain's device model.
func (t *Toolstack) AttachStock(ctx context.Context, d Domain, spec channel.Spec) (Channel, error) {
	return t.attach(ctx, d, spec, made{kind: StockType})
}

// made says how a channel comes to be: the type of its frontend, and the nodes in
// /libxl that say who made it.
type made struct {
	kind string
	mark []string
}

// attached is a channel that somebody made by hand.
var attached = made{Type, []string{Origin, string(channel.OriginAttached)}}

func (t *Toolstack) attach(ctx context.Context, d Domain, spec channel.Spec, how made) (Channel, error) {
	if err := t.write(ctx, d, spec, how); err != nil {
		return Channel{}, err
	}
	return t.Find(ctx, d, spec.Name)
}

// write writes a channel's nodes.
func (t *Toolstack) write(ctx context.Context, d Domain, spec channel.Spec, how made) error {
	backend, err := t.prepare(ctx, d, &spec)
	if err == nil {
		err = t.soon(ctx, func(ctx context.Context) error {
			return t.Store.Tx(ctx, func(tx *xenstore.Tx) error {
				devid, err := freeDevid(ctx, tx, d, spec)
				if err != nil {
					return err
				}
				p := devicePaths(d.ID, backend, devid)
				w := writer{tx.Pipeline(), how.kind}
				w.device(p, d.ID, backend, devid, spec)
				w.set(p.libxl, nil, how.mark...)
				return w.Wait(ctx)
			})
		})
	}
	if err != nil {
		return fmt.Errorf("attach %s to %v: %w", spec.Name, d, err)
	}
	return nil
}

// prepare checks what does not need the transaction, and fills in the path.
func (t *Toolstack) prepare(ctx context.Context, d Domain, spec *channel.Spec) (xen.DomID, error) {
	if err := spec.Validate(); err != nil {
		return 0, err
	}
	if d.ID == 0 {
		return 0, errors.New("the control domain has no channels of its own: name a guest")
	}
	backend := xen.DomID(0)
	if spec.Backend != "" {
		b, err := t.Resolve(ctx, spec.Backend)
		if err != nil {
			return 0, fmt.Errorf("backend: %w", err)
		}
		backend = b.ID
	}
	if spec.Connection == channel.PTY {
		spec.Path = ""
		return backend, nil
	}
	if spec.Path == "" {
		name := d.Name
		if name == "" {
			name = d.ID.String()
		}
		var err error
		if spec.Path, err = channel.DefaultPath(t.RunDir, name, spec.Name); err != nil {
			return 0, err
		}
		return backend, nil
	}
	if backend != 0 {
		return backend, nil // the path is on another domain's disk
	}
	return backend, checkPlace(spec.Path)
}

// checkPlace says early what the daemon would only be able to log: that there
// can be no socket at path.
func checkPlace(path string) error {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("path %s exists and is not a socket: move it away or choose another path", path)
	}
	info, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("path %s: there is no directory %s: make it, or leave path out for a place of our own", path, filepath.Dir(path))
	}
	if !info.IsDir() {
		return fmt.Errorf("path %s: %s is not a directory", path, filepath.Dir(path))
	}
	return nil
}

// freeDevid is the lowest free devid from 1, which keeps console N on the
// guest's hvcN for as long as nothing is unplugged.
func freeDevid(ctx context.Context, tx *xenstore.Tx, d Domain, spec channel.Spec) (int, error) {
	alive, err := tx.Exists(ctx, "/local/domain/"+d.ID.String())
	if err != nil {
		return 0, err
	}
	if !alive {
		return 0, ErrNoDomain
	}
	ids, err := devids(ctx, tx, d.ID)
	if err != nil {
		return 0, err
	}
	count := 0
	v := xenstore.NewValues(ctx, tx)
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = devicePaths(d.ID, 0, id).libxl + "/name"
	}
	v.Prefetch(names...)
	for i, id := range ids {
		if v.Get(names[i]) == spec.Name {
			return 0, fmt.Errorf("the domain already has a channel of this name (devid %d)", id)
		}
		if id > 0 {
			count++
		}
	}
	if v.Err() != nil {
		return 0, v.Err()
	}
	if count >= channel.MaxChannels {
		return 0, fmt.Errorf("the domain already has %d consoles beside its primary one; a Linux guest has terminals (hvc1 to hvc%d) for no more: detach one first",
			count, channel.MaxChannels)
	}
	for id := 1; ; id++ {
		if !slices.Contains(ids, id) {
			return id, nil
		}
	}
}

// writer writes the nodes of devices, without waiting for each.
type writer struct {
	*xenstore.Pipeline
	kind string // the frontend's type
}

func (w writer) set(dir string, perms wire.Perms, pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		path := dir + "/" + pairs[i]
		w.Write(path, pairs[i+1])
		if perms != nil {
			w.SetPerms(path, perms)
		}
	}
}

func (w writer) dir(path string, perms wire.Perms) {
	w.Remove(path)
	w.Mkdir(path)
	if perms != nil {
		w.SetPerms(path, perms)
	}
}

// device writes all nodes of a channel, in libxl's order. The guest owns the
// frontend's directory but not what names and describes the channel in it
// (XSA-57), and cannot read /libxl (XSA-175, XSA-178).
func (w writer) device(p paths, dom, backend xen.DomID, devid int, spec channel.Spec) {
	described := []string{
		"frontend-id", dom.String(), "online", "1", "state", xenbus.Initialising.Decimal(),
		"protocol", "vt100", "name", spec.Name, "connection", string(spec.Connection),
	}
	if spec.Connection == channel.Socket {
		described = append(described, "path", spec.Path)
	}
	described = append(described, ours(spec)...)

	w.dir(p.libxl, nil)
	w.set(p.libxl, nil, "frontend", p.frontend, "backend", p.backend)
	w.frontend(p, dom, backend, devid, spec)
	w.dir(p.backend, ownedBy(backend, dom))
	w.set(p.backend, nil, "frontend", p.frontend)
	w.set(p.backend, nil, described...)
	w.set(p.backend, nil, Instance, rand.Text())
	w.set(p.libxl, nil, described...)
}

// frontend writes the half of a channel that the guest looks at.
func (w writer) frontend(p paths, dom, backend xen.DomID, devid int, spec channel.Spec) {
	output := "pty"
	if spec.Connection == channel.Socket {
		output = "chardev:libxl-channel" + strconv.Itoa(devid)
	}
	w.dir(p.frontend, ownedBy(dom, backend))
	w.set(p.frontend, nil, "backend", p.backend, "backend-id", backend.String(), "state", xenbus.Initialising.Decimal(), "protocol", "vt100")
	w.set(p.frontend, ownedBy(backend, dom), "name", spec.Name, "limit", limit, "type", w.kind, "output", output, "tty", "")
}

// ownedBy is the rights of a node that belongs to one domain and that another reads.
func ownedBy(owner, reader xen.DomID) wire.Perms {
	return wire.Perms{{Access: wire.AccessNone, DomID: uint16(owner)}, {Access: wire.AccessRead, DomID: uint16(reader)}}
}

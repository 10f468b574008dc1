package toolstack

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenbus"
	"github.com/xenchan/xenchan/xenstore"
)

// Channel is one channel as xenstore has it: what [channel.Info] says, and where
// its nodes are.
type Channel struct {
	channel.Info
	// Type is the frontend's node "type": [Type] for ours, "ioemu" for one that
	// xl made and QEMU serves, empty when the guest has deleted its nodes.
	Type              string
	Frontend, Backend string // directories
	// DeclaredAs is the spec that a drop-in file gave, if Origin is declared.
	DeclaredAs string
	// NoTTY says that the frontend has no node "tty" at all.
	NoTTY bool
}

// Channels lists a domain's channels in the order of their devids. What names a
// channel and where its ends are comes from the nodes that only the toolstack
// can write; states, port and ring reference are the guest's word. A channel that
// comes or goes meanwhile is in the list or not.
//
// There is no transaction: a guest could keep it from ever ending by writing to
// its nodes all the time.
func (t *Toolstack) Channels(ctx context.Context, d Domain) (all []Channel, err error) {
	err = t.soon(ctx, func(ctx context.Context) error {
		all, err = ReadChannels(ctx, t.Store, d)
		return err
	})
	return all, err
}

// ReadChannels is [Toolstack.Channels] for a condition that is waited for.
func ReadChannels(ctx context.Context, r xenstore.Reader, d Domain) ([]Channel, error) {
	ids, err := devids(ctx, r, d.ID)
	if err != nil {
		return nil, fmt.Errorf("list the channels of %v: %w", d, err)
	}
	var out []Channel
	for _, id := range ids {
		c, ok, err := readChannel(ctx, r, d, id)
		if err != nil {
			return nil, fmt.Errorf("list the channels of %v: %w", d, err)
		}
		if ok {
			out = append(out, c)
		}
	}
	return out, nil
}

// Find is the channel of a domain with a name.
func (t *Toolstack) Find(ctx context.Context, d Domain, name string) (Channel, error) {
	all, err := t.Channels(ctx, d)
	if err != nil {
		return Channel{}, err
	}
	var names []string
	for _, c := range all {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	switch near := channel.Nearest(name, names); {
	case near != "":
		return Channel{}, fmt.Errorf("%w: %v has no %q (did you mean %s?)", ErrNoChannel, d, name, near)
	case len(names) == 0:
		return Channel{}, fmt.Errorf("%w: %v has no channels", ErrNoChannel, d)
	default:
		return Channel{}, fmt.Errorf("%w: %v has no %q, but %s", ErrNoChannel, d, name, strings.Join(names, ", "))
	}
}

// devids are the console devices of a domain, in order.
func devids(ctx context.Context, r xenstore.Reader, dom xen.DomID) ([]int, error) {
	v := xenstore.NewValues(ctx, r)
	var ids []int
	for _, n := range v.List(fmt.Sprintf("/libxl/%v/device/console", dom)) {
		if id, err := strconv.Atoi(n); err == nil && id >= 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, v.Err()
}

// readChannel reads one device. One without a name is no channel but an extra
// console, and devid 0 is the primary console, also if somebody has given it a name:
// libxl refuses that (libxl_console.c).
func readChannel(ctx context.Context, r xenstore.Reader, d Domain, devid int) (Channel, bool, error) {
	if devid == 0 {
		return Channel{}, false, nil
	}
	n := xenstore.NewValues(ctx, r)
	libxl := devicePaths(d.ID, 0, devid).libxl
	n.PrefetchBelow(libxl, "name", "frontend", "backend", "connection", "path", Origin, DeclaredIn, DeclaredAs)
	name := n.Get(libxl + "/name")
	if n.Err() != nil || name == "" {
		return Channel{}, false, n.Err()
	}
	c := Channel{Frontend: n.Get(libxl + "/frontend"), Backend: n.Get(libxl + "/backend")}
	n.Prefetch(c.Backend+"/state", c.Frontend+"/state", c.Frontend+"/type", c.Frontend+"/tty", c.Frontend+"/port", c.Frontend+"/ring-ref",
		deviceModelPID(d.ID), StandIn("/local/domain/0", d.ID))
	c.Info = channel.Info{
		DomID: uint16(d.ID), Domain: d.Name, UUID: d.UUID, DevID: devid,
		Name:       name,
		Connection: channel.Connection(n.Get(libxl + "/connection")),
		Path:       n.Get(libxl + "/path"),
		State:      State(n, c.Backend+"/state"),
		Guest:      channel.GuestUnknown,
	}
	c.BackendDomID = uint16(backendOf(c.Backend))
	if c.Frontend == "" || c.Backend == "" {
		return c, false, n.Err() // it has just gone
	}
	c.FrontendState = State(n, c.Frontend+"/state")
	c.Origin = channel.OriginXL
	if made, ok := n.Lookup(libxl + "/" + Origin); ok {
		c.Origin = channel.Origin(made)
	}
	if c.Origin == channel.OriginDeclared {
		c.DeclaredIn, c.DeclaredAs = n.Get(libxl+"/"+DeclaredIn), n.Get(libxl+"/"+DeclaredAs)
	}
	c.ServedBy, c.QEMUPID = server(n, c.Info)
	c.Type = n.Get(c.Frontend + "/type")
	var ok bool
	c.TTY, ok = n.Lookup(c.Frontend + "/tty")
	c.NoTTY = !ok
	if port, err := xen.ParsePort(n.Get(c.Frontend + "/port")); err == nil {
		c.Port = (*uint32)(&port)
	}
	if ref, err := xen.ParseGrantRef(n.Get(c.Frontend + "/ring-ref")); err == nil {
		c.RingRef = (*uint32)(&ref)
	}
	return c, true, n.Err()
}

// server is who serves a channel, as far as that can be told without a daemon. A
// channel that libxl made is served by the domain's device model, whose pid it
// writes (libxl_dm.c), or by whom our stand-in for that says.
func server(v *xenstore.Values, c channel.Info) (channel.Server, *int) {
	switch {
	case c.BackendDomID != 0:
		return channel.ServerUnknown, nil
	case c.Origin != channel.OriginXL:
		return channel.ServerNone, nil
	}
	pid, err := strconv.Atoi(v.Get(deviceModelPID(xen.DomID(c.DomID))))
	if err != nil || pid <= 0 {
		return channel.ServerNone, nil
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
		return channel.ServerNone, nil
	}
	switch v.Get(StandIn("/local/domain/0", xen.DomID(c.DomID))) {
	case Alone:
		return channel.ServerStandIn, nil
	case HandedOver:
		return channel.ServerNone, nil // unless the daemon says that it does
	}
	return channel.ServerQEMU, &pid
}

// deviceModelPID is libxl's node with the process of a domain's device model.
func deviceModelPID(dom xen.DomID) string {
	return fmt.Sprintf("/local/domain/%v/image/device-model-pid", dom)
}

// backendOf is the domain in a backend's path, /local/domain/BACKEND/backend/….
func backendOf(path string) xen.DomID {
	rest, _ := strings.CutPrefix(path, "/local/domain/")
	id, _, _ := strings.Cut(rest, "/")
	dom, _ := xen.ParseDomID(id)
	return dom
}

// State is what a state node says, nil when there is none.
func State(v *xenstore.Values, path string) *int {
	text, ok := v.Lookup(path)
	if !ok {
		return nil
	}
	s := int(xenbus.ParseState(text))
	return &s
}

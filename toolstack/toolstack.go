// Package toolstack makes, lists and removes channels: it writes the xenstore
// nodes that libxl writes for a channel of xl.cfg, so that xl, libvirt and the
// guest see no difference, and does for a running domain what libxl cannot.
//
// It needs no daemon. A channel is there as soon as its nodes are, and is served
// as soon as a daemon sees them.
//
// Layout of the nodes: libxl's libxl_console.c and libxl_device.c, of Xen 4.17
// to 4.22; docs/misc/console.txt.
package toolstack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// Type is the value of a frontend's node "type" for the channels of this
// project. QEMU serves a device only when it is "ioemu", xenconsoled looks at
// primary consoles alone, and Linux does not look.
const Type = "xenchan"

// StockType is that of consoles which libxl leaves to a QEMU.
const StockType = "ioemu"

// StandIn is the node with which a device model of ours says who serves the stock
// consoles of a domain: the daemon, if it is [HandedOver]. It is beside libxl's
// nodes of the device model, and goes with them. home is that of the domain where
// they are served.
func StandIn(home string, dom xen.DomID) string {
	return fmt.Sprintf("%s/device-model/%v/xenchan", home, dom)
}

// Values of the node [StandIn]: the consoles are the daemon's, or the device model
// serves them by itself, and a daemon that comes later keeps away from them.
const (
	HandedOver = "daemon"
	Alone      = "device-model"
)

// Instance is the backend's node with a text that no other attached channel has
// or had, so that a channel that takes the place of another can be told from it.
const Instance = "instance"

// Origin is the node in /libxl, where no guest and no driver domain can write,
// that says who made one of our channels. Those of libxl have none.
const Origin = "origin"

// Errors that a caller can tell apart.
var (
	ErrNoDomain  = errors.New("no such domain")
	ErrNoChannel = errors.New("no such channel")
)

// Toolstack works on one host's xenstore as its control domain.
type Toolstack struct {
	Store *xenstore.Store
	// RunDir is the directory below which sockets without a path of their own are.
	RunDir string
}

// Domain is one domain of the host.
type Domain struct {
	ID   xen.DomID
	Name string
	UUID string // empty when xenstore has none
}

// String is the name and the domid.
func (d Domain) String() string {
	if d.Name == "" {
		return "domain " + d.ID.String()
	}
	return fmt.Sprintf("%s (domain %v)", d.Name, d.ID)
}

// Domains lists the domains of the host in the order of their domids.
func (t *Toolstack) Domains(ctx context.Context) (domains []Domain, err error) {
	err = t.soon(ctx, func(ctx context.Context) error {
		domains, err = readDomains(ctx, t.Store)
		return err
	})
	return domains, err
}

func readDomains(ctx context.Context, r xenstore.Reader) ([]Domain, error) {
	v := xenstore.NewValues(ctx, r)
	var domains []Domain
	ids := v.List("/local/domain")
	var paths []string
	for _, s := range ids {
		paths = append(paths, "/local/domain/"+s+"/vm", "/local/domain/"+s+"/name")
	}
	v.Prefetch(paths...)
	for _, s := range ids {
		id, err := xen.ParseDomID(s)
		if err != nil {
			continue
		}
		home := "/local/domain/" + s
		uuid, _ := strings.CutPrefix(v.Get(home+"/vm"), "/vm/")
		domains = append(domains, Domain{ID: id, Name: v.Get(home + "/name"), UUID: uuid})
	}
	if err := v.Err(); err != nil {
		return nil, fmt.Errorf("list the domains: %w", err)
	}
	slices.SortFunc(domains, func(a, b Domain) int { return int(a.ID) - int(b.ID) })
	return domains, nil
}

// Resolve finds a domain by its name, domid or uuid. A name of digits alone is
// taken for a domid, as xl does.
func (t *Toolstack) Resolve(ctx context.Context, want string) (d Domain, err error) {
	err = t.soon(ctx, func(ctx context.Context) error {
		d, err = ReadDomain(ctx, t.Store, want)
		return err
	})
	return d, err
}

// ReadDomain is [Toolstack.Resolve] for a condition that is waited for.
func ReadDomain(ctx context.Context, r xenstore.Reader, want string) (Domain, error) {
	domains, err := readDomains(ctx, r)
	if err != nil {
		return Domain{}, err
	}
	id, idErr := xen.ParseDomID(want)
	var known []string
	for _, d := range domains {
		if idErr == nil && d.ID == id || idErr != nil && want != "" && (d.Name == want || strings.EqualFold(d.UUID, want)) {
			return d, nil
		}
		known = append(known, d.Name)
	}
	hint := ""
	if near := channel.Nearest(want, known); near != "" {
		hint = fmt.Sprintf(" (did you mean %s?)", near)
	}
	return Domain{}, fmt.Errorf("%w: %q%s", ErrNoDomain, want, hint)
}

// patience is how long xenstore may take for one step of a command. It needs
// milliseconds, and a second when it has a lot to do.
const patience = 30 * time.Second

// soon runs a step that would not end while xenstore stands still, or refuses
// every commit.
func (t *Toolstack) soon(ctx context.Context, step func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := step(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("xenstore has not done it within %v, look whether xenstored is well: %w", patience, err)
	}
	return err
}

// paths are the three directories of one console device.
type paths struct{ libxl, frontend, backend string }

func devicePaths(dom, backend xen.DomID, devid int) paths {
	return paths{
		libxl:    fmt.Sprintf("/libxl/%v/device/console/%d", dom, devid),
		frontend: fmt.Sprintf("/local/domain/%v/device/console/%d", dom, devid),
		backend:  fmt.Sprintf("/local/domain/%v/backend/console/%v/%d", backend, dom, devid),
	}
}

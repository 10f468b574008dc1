package xl

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
)

// Maker makes one domain with xl, and without the channels of its configuration.
type Maker struct {
	Tools *toolstack.Toolstack
	// File is the configuration, which has to be a regular file.
	File string
	// Name and UUID are the domain's, as File and Args say. An empty UUID is
	// made up here, as xl would.
	Name, UUID string
	Args       Args
	// Warn takes what xl says when it succeeds.
	Warn func(said string)
}

// Create runs xl create. The domain is told from all others by its uuid: xl does
// not say what domid it has, and somebody else may make one of the same name.
func (m Maker) Create(ctx context.Context) (toolstack.Domain, error) {
	args := append([]string{"create", "-p", "-q"}, m.Args.Options...)
	args = append(append(args, m.File), m.Args.Assignments...)
	// xl appends these to the file, and there the last = of a parameter wins.
	args = append(args, "channel=[]")
	uuid := m.UUID
	if uuid == "" {
		uuid = newUUID()
		args = append(args, fmt.Sprintf("uuid=%q", uuid))
	}
	said, err := run(args...)
	if err != nil {
		if m.UUID == "" { // else it may be somebody else's that we find
			m.cleanUp(ctx, uuid)
		}
		return toolstack.Domain{}, err
	}
	if said != "" {
		m.Warn(said)
	}
	_ = sys.NoPreempt() // xenstored is asked a lot from here on
	return m.find(ctx, uuid)
}

func (m Maker) find(ctx context.Context, uuid string) (toolstack.Domain, error) {
	domains, err := m.Tools.Domains(context.WithoutCancel(ctx))
	if err != nil {
		return toolstack.Domain{}, fmt.Errorf("xl has made the domain, but: %w", err)
	}
	for _, d := range domains {
		if strings.EqualFold(d.UUID, uuid) && d.Name == m.Name {
			return d, nil
		}
	}
	return toolstack.Domain{}, fmt.Errorf("%w: xl create has made %q, but xenstore does not have it any more", toolstack.ErrNoDomain, m.Name)
}

// cleanUp ends what an xl that was killed has left. One that fails by itself
// cleans up.
func (m Maker) cleanUp(ctx context.Context, uuid string) {
	domains, _ := m.Tools.Domains(context.WithoutCancel(ctx))
	for _, d := range domains {
		if d.UUID == uuid {
			_ = m.Destroy(ctx, d.ID)
		}
	}
}

// Unpause lets a domain run, as xl would: with one hypercall, for which xl itself takes
// as long as for a fifth of making a domain. Where that is not known to be enough, xl
// does it: it also has the QEMU of an HVM domain go on.
func (m Maker) Unpause(ctx context.Context, id xen.DomID) error {
	if m.Tools != nil {
		kind, err := m.Tools.Store.Read(ctx, fmt.Sprintf("/libxl/%v/type", id))
		if err == nil && (kind == "pv" || kind == "pvh") && sys.UnpauseDomain(uint16(id)) == nil {
			return nil
		}
	}
	said, err := run("unpause", id.String())
	if err == nil && strings.Contains(said, "error") { // xl's exit status is always 0
		err = fmt.Errorf("xl unpause failed%s", indented(said))
	}
	return err
}

// Destroy ends a domain at once.
func (Maker) Destroy(_ context.Context, id xen.DomID) error {
	_, err := run("destroy", id.String())
	return err
}

// Reboot asks a domain's guest to reboot.
func (Maker) Reboot(_ context.Context, id xen.DomID) error {
	_, err := run("reboot", id.String())
	return err
}

// newUUID is a random uuid (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

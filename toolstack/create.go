package toolstack

import (
	"context"
	"fmt"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/xen"
)

// Maker makes domains and ends them: xl on real Xen, the host itself on an
// embedded one.
type Maker interface {
	// Create makes a domain that is paused and has no channels. It leaves nothing
	// behind when it fails.
	Create(ctx context.Context) (Domain, error)
	Unpause(ctx context.Context, id xen.DomID) error
	Destroy(ctx context.Context, id xen.DomID) error
}

// undoWithin bounds how long a domain that is not wanted any more may take to go.
const undoWithin = time.Minute

// Create makes a domain with channels that are there before its first
// instruction runs, each in one transaction and in the order given, and lets it
// run unless it is to stay paused. When there is an error, the domain is destroyed
// again, with its channels.
func (t *Toolstack) Create(ctx context.Context, m Maker, specs []channel.Spec, paused bool) (Domain, error) {
	d, err := m.Create(ctx)
	if err != nil {
		return d, err
	}
	if err := t.complete(ctx, m, d, specs, paused); err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
		defer cancel()
		if undo := m.Destroy(clean, d.ID); undo != nil && t.exists(clean, d) {
			return d, fmt.Errorf("%w\n%v is left as it is, for it could not be destroyed: %w", err, d, undo)
		}
		return d, fmt.Errorf("%w\n%v was destroyed again", err, d)
	}
	return d, nil
}

// complete gives a new domain its channels, and lets it run.
func (t *Toolstack) complete(ctx context.Context, m Maker, d Domain, specs []channel.Spec, paused bool) error {
	for _, spec := range specs {
		if err := t.write(ctx, d, spec, attached); err != nil && !t.isDeclared(ctx, d, spec.Name) {
			return err
		}
	}
	if err := ctx.Err(); err != nil || paused {
		return err
	}
	return m.Unpause(ctx, d.ID)
}

// isDeclared says whether a daemon was faster with a channel that is declared too.
func (t *Toolstack) isDeclared(ctx context.Context, d Domain, name string) bool {
	c, err := t.Find(ctx, d, name)
	return err == nil && c.Origin == channel.OriginDeclared
}

// exists says whether a domain is still there; when xenstore cannot tell, it may be.
func (t *Toolstack) exists(ctx context.Context, d Domain) bool {
	alive, err := t.Store.Exists(ctx, "/local/domain/"+d.ID.String())
	return alive || err != nil
}

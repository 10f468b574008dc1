package toolstack

import (
	"context"
	"errors"
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
func (t *Toolstack) Create(ctx context.Context, m Maker, specs []channel.Spec, paused bool) (d Domain, err error) {
	if d, err = m.Create(ctx); err != nil {
		return d, err
	}
	defer func() {
		if err == nil {
			return
		}
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
		defer cancel()
		if undo := m.Destroy(clean, d.ID); undo != nil && !errors.Is(undo, ErrNoDomain) {
			err = fmt.Errorf("%w\nthe domain is left half-made, as it could not be destroyed: %w", err, undo)
		}
	}()
	for _, spec := range specs {
		if _, err = t.Attach(ctx, d, spec); err != nil {
			return d, err
		}
	}
	if err = ctx.Err(); err != nil || paused {
		return d, err
	}
	return d, m.Unpause(ctx, d.ID)
}

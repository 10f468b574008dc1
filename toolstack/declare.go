package toolstack

import (
	"context"
	"fmt"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/xenstore"
)

// DeclaredIn and DeclaredAs are the nodes beside [Origin] of a declared channel:
// the name of the drop-in file, and the spec as that file has it, in its
// canonical form. The nodes of the channel itself have the spec with defaults
// filled in, so they do not tell whether the declaration has changed.
const (
	DeclaredIn = "declared-in"
	DeclaredAs = "declared-as"
)

// Declare is [Toolstack.Attach] for a channel that a drop-in file declares.
func (t *Toolstack) Declare(ctx context.Context, d Domain, spec channel.Spec, file string) (Channel, error) {
	return t.attach(ctx, d, spec, made{Type, []string{
		Origin, string(channel.OriginDeclared), DeclaredIn, file, DeclaredAs, spec.String(),
	}})
}

// Redeclare notes that another file declares a channel now.
func (t *Toolstack) Redeclare(ctx context.Context, d Domain, c Channel, file string) error {
	libxl := devicePaths(d.ID, 0, c.DevID).libxl
	err := t.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		v := xenstore.NewValues(ctx, tx)
		if v.Get(libxl+"/name") != c.Name || v.Get(libxl+"/"+DeclaredIn) == "" || v.Err() != nil {
			return v.Err() // it has gone meanwhile
		}
		return tx.Write(ctx, libxl+"/"+DeclaredIn, file)
	})
	if err != nil {
		return fmt.Errorf("note that %s declares %s of %v: %w", file, c.Name, d, err)
	}
	return nil
}

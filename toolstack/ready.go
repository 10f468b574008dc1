package toolstack

import (
	"context"
	"fmt"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// readyPaths are the directory and the node with what a domain's guest has said of
// its configuration. No guest can write there, and both go with the domain, as libxl
// removes all of /libxl/D.
func readyPaths(dom xen.DomID) (dir, node string) {
	dir = fmt.Sprintf("/libxl/%v/xenchan", dom)
	return dir, dir + "/ready"
}

// SetReady takes down what a domain's guest says of its configuration: "ok", or why
// it is not done. It is [ErrNoDomain] when the domain has gone.
func (t *Toolstack) SetReady(ctx context.Context, d Domain, text string) error {
	dir, node := readyPaths(d.ID)
	return t.soon(ctx, func(ctx context.Context) error {
		return t.Store.Tx(ctx, func(tx *xenstore.Tx) error {
			if there, err := tx.Exists(ctx, fmt.Sprintf("/local/domain/%v", d.ID)); err != nil || !there {
				return fmt.Errorf("%w: %v has gone (%v)", ErrNoDomain, d, err)
			}
			w := writer{Pipeline: tx.Pipeline()}
			w.dir(dir, nil) // with the rights of /libxl/D, domain 0's alone
			w.Write(node, text)
			return w.Wait(ctx)
		})
	})
}

// ReadReady is what [Toolstack.SetReady] has taken down, empty before.
func ReadReady(ctx context.Context, r xenstore.Reader, dom xen.DomID) (string, error) {
	v := xenstore.NewValues(ctx, r)
	_, node := readyPaths(dom)
	text := v.Get(node)
	return text, v.Err()
}

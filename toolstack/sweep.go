package toolstack

import (
	"context"
	"fmt"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// Sweep removes what is left of our channels of domains that are gone. libxl
// removes a domain's devices one by one, and then the domain's own nodes: a
// channel that is attached in between leaves its backend behind.
func (t *Toolstack) Sweep(ctx context.Context, alive []Domain) error {
	v := xenstore.NewValues(ctx, t.Store)
	known := make(map[xen.DomID]bool)
	for _, d := range alive {
		known[d.ID] = true
	}
	for _, b := range alive {
		root := fmt.Sprintf("/local/domain/%v/backend/console", b.ID)
		for _, dom := range v.List(root) {
			if id, err := xen.ParseDomID(dom); err != nil || known[id] {
				continue
			}
			for _, dev := range v.List(root + "/" + dom) {
				dir := root + "/" + dom + "/" + dev
				if v.Get(dir+"/"+Instance) == "" || v.Err() != nil {
					continue // libxl's, which removes it itself
				}
				if err := t.sweep(ctx, dom, dir); err != nil {
					return fmt.Errorf("remove what is left of domain %s: %w", dom, err)
				}
			}
		}
	}
	return v.Err()
}

// sweep removes a backend's directory, unless its domain is there after all.
func (t *Toolstack) sweep(ctx context.Context, dom, dir string) error {
	return t.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		alive, err := tx.Exists(ctx, "/local/domain/"+dom)
		if alive || err != nil {
			return err
		}
		return prune(ctx, tx, []string{dir, parent(dir)})
	})
}

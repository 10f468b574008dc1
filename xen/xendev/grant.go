package xendev

import (
	"fmt"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
)

// pages is mapped memory, of another domain or shared with one.
type pages struct {
	*sys.Mapping
	owner *Hypervisor
	refs  []xen.GrantRef // of shared memory
}

// MapGrants maps pages of remote. It implements [xen.Hypervisor].
func (h *Hypervisor) MapGrants(remote xen.DomID, refs ...xen.GrantRef) (xen.Pages, error) {
	raw := make([]uint32, len(refs))
	for i, r := range refs {
		raw[i] = uint32(r)
	}
	m, err := sys.MapGrants(uint16(remote), raw)
	if err != nil {
		return nil, fmt.Errorf("xendev: map grants %v of domain %v: %w", refs, remote, explain(err))
	}
	p := &pages{Mapping: m, owner: h}
	if err := h.adopt(p); err != nil {
		return nil, err
	}
	return p, nil
}

// SharePages grants new pages to remote. It implements [xen.Hypervisor].
func (h *Hypervisor) SharePages(remote xen.DomID, n int) (xen.SharedPages, error) {
	m, raw, err := sys.SharePages(uint16(remote), n)
	if err != nil {
		return nil, fmt.Errorf("xendev: share %d pages with domain %v: %w", n, remote, explain(err))
	}
	p := &pages{Mapping: m, owner: h, refs: make([]xen.GrantRef, len(raw))}
	for i, r := range raw {
		p.refs[i] = xen.GrantRef(r)
	}
	if err := h.adopt(p); err != nil {
		return nil, err
	}
	return p, nil
}

// Refs are the grant references of shared memory, one a page.
func (p *pages) Refs() []xen.GrantRef { return p.refs }

func (p *pages) Close() error {
	p.owner.forget(p)
	if err := p.Mapping.Close(); err != nil {
		return fmt.Errorf("xendev: unmap: %w", err)
	}
	return nil
}

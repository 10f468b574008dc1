package xensim

import (
	"fmt"
	"sync"
	"syscall"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
)

// pages is memory mapped into this process, granted by it or to it.
type pages struct {
	conn     *Conn
	undo     Op // tells the hypervisor that it is over
	id       uint32
	refs     []xen.GrantRef
	memory   *sys.Mapping
	once     sync.Once
	closeErr error
}

// MapGrants maps pages of remote, at most [MaxPages] at a time. See
// [xen.Hypervisor]. Where the kernel's pages are larger than [xen.PageSize],
// only neighbouring pages of one SharePages can be mapped together.
func (c *Conn) MapGrants(remote xen.DomID, refs ...xen.GrantRef) (xen.Pages, error) {
	p, err := c.mapGrants(remote, refs)
	if err != nil {
		return nil, fmt.Errorf("xensim: map grants %v of domain %v: %w", refs, remote, err)
	}
	return p, nil
}

func (c *Conn) mapGrants(remote xen.DomID, refs []xen.GrantRef) (*pages, error) {
	if len(refs) == 0 || len(refs) > MaxPages {
		return nil, fmt.Errorf("%d pages are not 1 to %d: %w", len(refs), MaxPages, syscall.EINVAL)
	}
	args := []uint32{uint32(remote)}
	for _, r := range refs {
		args = append(args, uint32(r))
	}
	words, hs, err := c.call(OpMap, MaxPages, args...)
	if err != nil {
		return nil, err
	}
	defer sys.CloseAll(hs)
	if len(words) != 1+2*len(refs) {
		return nil, errReply
	}
	extents, err := toExtents(words[1:], hs)
	if err != nil {
		return nil, err
	}
	return c.newPages(OpUnmap, words[0], nil, extents...)
}

// toExtents joins neighbouring pages of one file.
func toExtents(words []uint32, hs []*sys.Handle) ([]sys.Extent, error) {
	var extents []sys.Extent
	for i := 0; i < len(words); i += 2 {
		index, page := words[i], words[i+1]
		if index >= uint32(len(hs)) || page >= MaxPages {
			return nil, errReply
		}
		e := sys.Extent{File: hs[index], Offset: int64(page) * xen.PageSize, Len: xen.PageSize}
		if n := len(extents); n > 0 {
			last := &extents[n-1]
			if last.File == e.File && last.Offset+int64(last.Len) == e.Offset {
				last.Len += e.Len
				continue
			}
		}
		extents = append(extents, e)
	}
	return extents, nil
}

// SharePages grants n new pages to remote, at most [MaxPages] at a time. See
// [xen.Hypervisor].
func (c *Conn) SharePages(remote xen.DomID, n int) (xen.SharedPages, error) {
	p, err := c.sharePages(remote, n)
	if err != nil {
		return nil, fmt.Errorf("xensim: share %d pages with domain %v: %w", n, remote, err)
	}
	return p, nil
}

func (c *Conn) sharePages(remote xen.DomID, n int) (*pages, error) {
	if n < 1 || n > MaxPages {
		return nil, fmt.Errorf("%d pages are not 1 to %d: %w", n, MaxPages, syscall.EINVAL)
	}
	words, hs, err := c.call(OpShare, 1, uint32(remote), uint32(n))
	if err != nil {
		return nil, err
	}
	defer sys.CloseAll(hs)
	if len(words) != 1+n || len(hs) != 1 {
		return nil, errReply
	}
	var refs []xen.GrantRef
	for _, w := range words[1:] {
		refs = append(refs, xen.GrantRef(w))
	}
	return c.newPages(OpUnshare, words[0], refs, sys.Extent{File: hs[0], Len: n * xen.PageSize})
}

func (c *Conn) newPages(undo Op, id uint32, refs []xen.GrantRef, extents ...sys.Extent) (*pages, error) {
	memory, err := sys.Map(extents...)
	if err != nil {
		_ = c.giveBack(undo, id)
		return nil, err
	}
	p := &pages{conn: c, undo: undo, id: id, refs: refs, memory: memory}
	if err := c.adopt(p); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *pages) Bytes() []byte { return p.memory.Bytes() }

func (p *pages) Refs() []xen.GrantRef { return p.refs }

func (p *pages) Close() error {
	p.once.Do(func() {
		p.conn.forget(p)
		p.closeErr = p.memory.Close()
		// The hypervisor hears of it after the memory is really gone.
		if err := p.conn.giveBack(p.undo, p.id); p.closeErr == nil {
			p.closeErr = err
		}
	})
	return p.closeErr
}

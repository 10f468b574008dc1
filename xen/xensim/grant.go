package xensim

import (
	"os"
	"syscall"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
)

// share is the memory of one SharePages: a sealed memfd that one other domain
// may map.
type share struct {
	owner  *session
	id     uint32
	to     xen.DomID
	memory *sys.Handle // closed with the last of the grants
	grants []*grant
	taken  int // grants that still have their reference
	ended  bool
}

// grant is one page of a share, by its reference. The reference stays taken
// until the page is neither granted nor mapped.
type grant struct {
	share *share
	ref   uint32
	page  uint32
	maps  int
}

// mapping is what one MapGrants mapped.
type mapping struct {
	dom    *domain // whose pages
	grants []*grant
}

func (s *session) sharePages(args []uint32) (reply, error) {
	to, err := toDomID(args[0])
	if err != nil {
		return reply{}, err
	}
	n := args[1]
	if n == 0 || n > MaxPages {
		return reply{}, syscall.EINVAL
	}
	memory, err := sys.NewMemfd("xensim", roundUp(int64(n)*xen.PageSize, int64(os.Getpagesize())))
	if err != nil {
		return reply{}, err
	}
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.released || s.dom.grants.full(int(n)) {
		_ = memory.Close()
		if s.released {
			return reply{}, syscall.ESRCH
		}
		return reply{}, syscall.ENOSPC
	}
	sh := &share{owner: s, to: to, memory: memory, taken: int(n)}
	sh.id = s.newID()
	s.shares[sh.id] = sh
	words := []uint32{sh.id}
	for page := range n {
		g := &grant{share: sh, page: page}
		g.ref, _ = s.dom.grants.add(g)
		sh.grants = append(sh.grants, g)
		words = append(words, g.ref)
	}
	return reply{words: words, pass: []*sys.Handle{memory}}, nil
}

func (s *session) unshare(args []uint32) (reply, error) {
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	sh := s.shares[args[0]]
	if sh == nil {
		return reply{}, syscall.EINVAL
	}
	sh.end()
	return reply{}, nil
}

// end revokes the share; the host's mu is held. Who has it mapped keeps it.
func (sh *share) end() {
	delete(sh.owner.shares, sh.id)
	sh.ended = true
	for _, g := range sh.grants {
		g.freeIfUnused()
	}
}

func (g *grant) freeIfUnused() {
	if !g.share.ended || g.maps > 0 {
		return
	}
	g.share.owner.dom.grants.remove(g.ref)
	g.share.taken--
	if g.share.taken == 0 {
		_ = g.share.memory.Close()
	}
}

func (s *session) mapGrants(args []uint32) (reply, error) {
	remote, err := toDomID(args[0])
	if err != nil {
		return reply{}, err
	}
	refs := args[1:]
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.released {
		return reply{}, syscall.ESRCH
	}
	rd := h.domains[remote]
	if rd == nil || rd.state == StateDying {
		return reply{}, syscall.EINVAL // GNTST_bad_domain, as gntdev reports it
	}
	if s.dom.mapped+len(refs) > s.dom.limits.mapped {
		return reply{}, syscall.ENOSPC
	}
	m := &mapping{dom: rd}
	for _, ref := range refs {
		g := rd.grants.used[ref]
		if g == nil || g.share.ended || g.share.to != s.dom.id {
			return reply{}, syscall.EINVAL
		}
		m.grants = append(m.grants, g)
	}
	id := s.newID()
	s.maps[id] = m
	for _, g := range m.grants {
		g.maps++
	}
	s.dom.mapped += len(refs)
	rd.foreign += len(refs)
	return m.describe(id), nil
}

// describe tells the mapper in which descriptor each page is, and where.
func (m *mapping) describe(id uint32) reply {
	r := reply{words: []uint32{id}}
	index := make(map[*share]uint32)
	for _, g := range m.grants {
		i, ok := index[g.share]
		if !ok {
			i = uint32(len(r.pass))
			index[g.share] = i
			r.pass = append(r.pass, g.share.memory)
		}
		r.words = append(r.words, i, g.page)
	}
	return r
}

func (s *session) unmapGrants(args []uint32) (reply, error) {
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.maps[args[0]] == nil {
		return reply{}, syscall.EINVAL
	}
	s.dropMap(args[0])
	return reply{}, nil
}

// dropMap forgets a mapping; the host's mu is held. The last one of a dying
// domain's pages lets that domain go.
func (s *session) dropMap(id uint32) {
	m := s.maps[id]
	delete(s.maps, id)
	s.dom.mapped -= len(m.grants)
	m.dom.foreign -= len(m.grants)
	for _, g := range m.grants {
		g.maps--
		g.freeIfUnused()
	}
	s.host.reap(m.dom)
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

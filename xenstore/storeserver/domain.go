package storeserver

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// domain is what the server knows of a domain. Guarded by Server.mu.
type domain struct {
	id         xen.DomID
	introduced bool
	target     *domain // whose rights it has besides its own (SET_TARGET)
	watches    int
	txs        int
}

// domain is the record of a domain, made when it is first heard of.
// The caller holds mu.
func (s *Server) domain(id xen.DomID) *domain {
	d := s.domains[id]
	if d == nil {
		d = &domain{id: id}
		s.domains[id] = d
	}
	return d
}

// privileged reports whether permissions and quotas do not bind the domain.
func (d *domain) privileged() bool { return d.id == 0 }

// access is what a list of permissions allows the domain.
func (d *domain) access(perms wire.Perms) wire.Access {
	if d.privileged() || d.owns(perms) {
		return wire.AccessBoth
	}
	for _, p := range perms[1:] {
		if p.DomID == uint16(d.id) || d.target != nil && p.DomID == uint16(d.target.id) {
			return p.Access
		}
	}
	return perms[0].Access
}

// owns reports whether the domain, or the one it serves, is the owner.
func (d *domain) owns(perms wire.Perms) bool {
	owner := perms[0].DomID
	return owner == uint16(d.id) || d.target != nil && owner == uint16(d.target.id)
}

// IntroduceDomain makes a domain known to the store, and fires @introduceDomain
// unless it was known. The toolstack does this once the domain is built; the
// INTRODUCE request is the same on the wire.
func (s *Server) IntroduceDomain(dom xen.DomID) error {
	if dom >= xen.FirstReserved {
		return fmt.Errorf("introduce domain %d: %w", dom, syscall.ENOENT)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.introduce(dom)
	return nil
}

func (s *Server) introduce(dom xen.DomID) {
	if d := s.domain(dom); !d.introduced {
		d.introduced = true
		s.fireSpecial(introduceDomain)
	}
}

// ReleaseDomain forgets a domain that is gone: its connections are closed, the
// nodes it owned are removed with all below them, its entries in permission
// lists go (XSA-322: a later domain of the same number must not inherit them),
// and @releaseDomain fires. It does not matter whether it was introduced.
// Domain 0 cannot be released.
func (s *Server) ReleaseDomain(dom xen.DomID) error {
	if dom == 0 {
		return fmt.Errorf("release domain 0: %w", syscall.EINVAL)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(dom)
	return nil
}

func (s *Server) release(dom xen.DomID) {
	for c := range s.conns {
		if c.dom.id == dom {
			c.drop()
		}
	}
	for _, d := range s.domains {
		if d.target != nil && d.target.id == dom {
			d.target = nil
		}
	}
	delete(s.domains, dom)
	s.purge("/", uint16(dom))
	for name, perms := range s.special {
		s.special[name] = withoutDomain(perms, uint16(dom))
	}
	s.fireSpecial(releaseDomain)
}

// ShutdownDomain fires @releaseDomain for a domain that has shut down or
// crashed and still exists.
func (s *Server) ShutdownDomain(dom xen.DomID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fireSpecial(releaseDomain)
}

// purge removes what a dead domain owned at or below path, and its name from
// the other nodes' permissions. The root stays.
func (s *Server) purge(path string, dom uint16) {
	n := s.tree.node(path)
	if n.owner() == dom && path != "/" {
		s.remove(request{view: s.tree}, path)
		return
	}
	if perms := withoutDomain(n.perms, dom); len(perms) != len(n.perms) || perms[0] != n.perms[0] {
		s.tree.put(path, n.withPerms(perms))
	}
	for _, name := range n.children {
		s.purge(join(path, name), dom)
	}
}

// withoutDomain is the list without the entries of a domain; what it owned
// becomes domain 0's.
func withoutDomain(perms wire.Perms, dom uint16) wire.Perms {
	names := func(p wire.Perm) bool { return p.DomID == dom }
	if !slices.ContainsFunc(perms, names) {
		return perms
	}
	owner := perms[0]
	if owner.DomID == dom {
		owner = wire.Perm{Access: wire.AccessNone, DomID: 0}
	}
	return append(wire.Perms{owner}, slices.DeleteFunc(slices.Clone(perms[1:]), names)...)
}

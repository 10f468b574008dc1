package xensim

import (
	"syscall"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
)

// link is what all event channels have in common that one session has allocated for one
// domain: the memory in which their events are noted (see doorbell), and an eventfd for
// each side. The end on side i waits on bells[i] and rings the other. So an event
// channel costs no descriptor. All of it outlives either end, so that an end which is
// bound anew continues with the same. The hypervisor itself never reads or writes any
// of it: a hostile holder could make that block.
type link struct {
	id     uint32
	memory *sys.Handle
	bells  [2]*sys.Handle
	slots  table[struct{}] // one for each event channel

	owner  *session // side 0
	remote xen.DomID
}

func (h *Host) newLink(owner *session, remote xen.DomID) (*link, error) {
	h.lastLink++
	l := &link{id: h.lastLink, slots: newTable[struct{}](0, maxSlots), owner: owner, remote: remote}
	var err error
	if l.memory, err = sys.NewMemfd("xensim", linkSize); err != nil {
		return nil, err
	}
	for side := range l.bells {
		if l.bells[side], err = sys.NewEventfd(); err != nil {
			l.close()
			return nil, err
		}
	}
	return l, nil
}

func (l *link) close() {
	for _, h := range []*sys.Handle{l.memory, l.bells[0], l.bells[1]} {
		if h != nil {
			_ = h.Close()
		}
	}
}

// port is one end of an event channel. It is bound while it has a peer; else it
// waits for remote.
//
//	alloc ──► unbound ──bind by remote──► bound
//	             ▲                          │
//	             └──── the peer closes ─────┘
type port struct {
	num    xen.Port
	owner  *session
	remote xen.DomID
	peer   *port
	link   *link
	slot   uint32
	side   int
}

// reply is what the port's owner gets, with what it waits on and what it rings.
func (p *port) reply() reply {
	l := p.link
	return reply{
		words: []uint32{uint32(p.num), l.id, p.slot, uint32(p.side)},
		pass:  []*sys.Handle{l.memory, l.bells[p.side], l.bells[1-p.side]},
	}
}

func (s *session) allocUnbound(args []uint32) (reply, error) {
	remote, err := toDomID(args[0])
	if err != nil {
		return reply{}, err
	}
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	l := s.links[remote]
	if l == nil {
		if l, err = h.newLink(s, remote); err != nil {
			return reply{}, err
		}
		s.links[remote] = l
	}
	slot, ok := l.slots.add(struct{}{})
	if !ok {
		return reply{}, syscall.ENOSPC
	}
	p, err := s.addPort(remote, l, slot, 0)
	if err != nil {
		l.free(slot)
		return reply{}, err
	}
	return p.reply(), nil
}

// free ends an event channel, and with the last one the link; the host's mu is held.
func (l *link) free(slot uint32) {
	l.slots.remove(slot)
	if len(l.slots.used) > 0 {
		return
	}
	delete(l.owner.links, l.remote)
	l.close()
}

func (s *session) bindInterdomain(args []uint32) (reply, error) {
	remote, err := toDomID(args[0])
	if err != nil {
		return reply{}, err
	}
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	rd := h.domains[remote]
	if rd == nil || rd.state == StateDying {
		return reply{}, syscall.ESRCH
	}
	rp := rd.ports.used[args[1]]
	if rp == nil || rp.peer != nil || rp.remote != s.dom.id {
		return reply{}, syscall.EINVAL
	}
	p, err := s.addPort(remote, rp.link, rp.slot, 1-rp.side)
	if err != nil {
		return reply{}, err
	}
	p.peer, rp.peer = rp, p
	return p.reply(), nil
}

// addPort gives the session's domain another port; the host's mu is held.
func (s *session) addPort(remote xen.DomID, l *link, slot uint32, side int) (*port, error) {
	if s.released {
		return nil, syscall.ESRCH
	}
	p := &port{owner: s, remote: remote, link: l, slot: slot, side: side}
	num, ok := s.dom.ports.add(p)
	if !ok {
		return nil, syscall.ENOSPC
	}
	p.num = xen.Port(num)
	s.ports[p] = struct{}{}
	return p, nil
}

func (s *session) closePort(args []uint32) (reply, error) {
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	p := s.dom.ports.used[args[0]]
	if p == nil || p.owner != s {
		return reply{}, syscall.EINVAL
	}
	p.close()
	return reply{}, nil
}

// close ends the port; the host's mu is held. A peer becomes unbound and goes
// on waiting for the same domain (xen/common/event_channel.c).
func (p *port) close() {
	delete(p.owner.ports, p)
	p.owner.dom.ports.remove(uint32(p.num))
	if p.peer == nil {
		p.link.free(p.slot)
		return
	}
	p.peer.peer = nil
	p.peer = nil
}

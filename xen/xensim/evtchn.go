package xensim

import (
	"syscall"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
)

// bells are the two eventfds of an event channel: the end on side i waits on
// bells[i] and rings the other. They outlive either end, so that an end which
// is bound anew continues with the same two. The hypervisor itself never reads
// or writes them: a hostile holder could make that block.
type bells [2]*sys.Handle

func newBells() (*bells, error) {
	rx, err := sys.NewEventfd()
	if err != nil {
		return nil, err
	}
	tx, err := sys.NewEventfd()
	if err != nil {
		_ = rx.Close()
		return nil, err
	}
	return &bells{rx, tx}, nil
}

func (b *bells) close() { sys.CloseAll(b[:]) }

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
	bells  *bells
	side   int
}

// pass is what the port's owner gets: what it waits on and what it rings.
func (p *port) pass() []*sys.Handle {
	return []*sys.Handle{p.bells[p.side], p.bells[1-p.side]}
}

func (s *session) allocUnbound(args []uint32) (reply, error) {
	remote, err := toDomID(args[0])
	if err != nil {
		return reply{}, err
	}
	b, err := newBells()
	if err != nil {
		return reply{}, err
	}
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := s.addPort(remote, b, 0)
	if err != nil {
		b.close()
		return reply{}, err
	}
	return reply{words: []uint32{uint32(p.num)}, pass: p.pass()}, nil
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
	p, err := s.addPort(remote, rp.bells, 1-rp.side)
	if err != nil {
		return reply{}, err
	}
	p.peer, rp.peer = rp, p
	return reply{words: []uint32{uint32(p.num)}, pass: p.pass()}, nil
}

// addPort gives the session's domain another port; the host's mu is held.
func (s *session) addPort(remote xen.DomID, b *bells, side int) (*port, error) {
	if s.released {
		return nil, syscall.ESRCH
	}
	p := &port{owner: s, remote: remote, bells: b, side: side}
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
		p.bells.close()
		return
	}
	p.peer.peer = nil
	p.peer = nil
}

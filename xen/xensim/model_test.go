package xensim

import (
	"errors"
	"maps"
	"slices"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xentest"
)

// portName names a port of any domain.
type portName struct {
	dom  xen.DomID
	port xen.Port
}

type modelPort struct {
	ch     *xentest.Waiter
	remote xen.DomID
	peer   *portName // nil while it waits for remote
}

// portModel is what the event channels of a few domains must be like.
type portModel struct {
	host  *Host
	conns map[xen.DomID]*Conn
	ports map[portName]*modelPort
}

func (m *portModel) doms() []xen.DomID { return slices.Sorted(maps.Keys(m.conns)) }

func (m *portModel) names() []portName {
	return slices.SortedFunc(maps.Keys(m.ports), func(a, b portName) int {
		return (int(a.dom)-int(b.dom))<<16 + int(a.port) - int(b.port)
	})
}

func (m *portModel) alloc(t *rapid.T) {
	dom, remote := rapid.SampledFrom(m.doms()).Draw(t, "dom"), rapid.SampledFrom(m.doms()).Draw(t, "remote")
	ch, err := m.conns[dom].AllocUnbound(remote)
	if err != nil {
		t.Fatal(err)
	}
	m.add(t, dom, &modelPort{ch: xentest.Wait(ch), remote: remote})
}

func (m *portModel) add(t *rapid.T, dom xen.DomID, p *modelPort) portName {
	name := portName{dom, p.ch.Port()}
	if m.ports[name] != nil {
		t.Fatalf("%v was given out twice", name)
	}
	m.ports[name] = p
	return name
}

func (m *portModel) bind(t *rapid.T) {
	dom, remote := rapid.SampledFrom(m.doms()).Draw(t, "dom"), rapid.SampledFrom(m.doms()).Draw(t, "remote")
	port := xen.Port(rapid.Uint32Range(1, 6).Draw(t, "port"))
	target := portName{remote, port}
	rp := m.ports[target]
	free := rp != nil && rp.peer == nil && rp.remote == dom
	ch, err := m.conns[dom].BindInterdomain(remote, port)
	if !free {
		if !errors.Is(err, syscall.EINVAL) {
			t.Fatalf("bind of %v to %v, which is not free for it: %v, want EINVAL", dom, target, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("bind of %v to %v, which is free for it: %v", dom, target, err)
	}
	w := xentest.Wait(ch)
	if err := errors.Join(w.Wait(), w.Unmask()); err != nil {
		t.Fatal(err)
	}
	name := m.add(t, dom, &modelPort{ch: w, remote: remote, peer: &target})
	rp.peer = &name
}

// close ends a port; its peer waits for the domain that it was bound to.
func (m *portModel) close(t *rapid.T) {
	if len(m.ports) == 0 {
		return
	}
	name := rapid.SampledFrom(m.names()).Draw(t, "port")
	p := m.ports[name]
	if err := p.ch.Close(); err != nil {
		t.Fatal(err)
	}
	delete(m.ports, name)
	if p.peer != nil {
		m.ports[*p.peer].peer = nil
	}
}

// notify must reach the peer if there is one.
func (m *portModel) notify(t *rapid.T) {
	if len(m.ports) == 0 {
		return
	}
	p := m.ports[rapid.SampledFrom(m.names()).Draw(t, "port")]
	if err := p.ch.Notify(); err != nil {
		t.Fatal(err)
	}
	if p.peer != nil {
		peer := m.ports[*p.peer].ch
		if err := errors.Join(peer.Wait(), peer.Unmask()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPorts_model(t *testing.T) {
	h, dir, guest := startHost(t)
	conns := make(map[xen.DomID]*Conn)
	for _, dom := range []xen.DomID{0, guest} {
		c, err := Connect(t.Context(), dir, dom)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[dom] = c
	}
	rapid.Check(t, func(t *rapid.T) {
		m := &portModel{host: h, conns: conns, ports: make(map[portName]*modelPort)}
		t.Cleanup(func() {
			for _, p := range m.ports {
				_ = p.ch.Close()
			}
		})
		t.Repeat(map[string]func(*rapid.T){
			"alloc": m.alloc, "bind": m.bind, "close": m.close, "notify": m.notify, "": m.check,
		})
	})
}

// check compares what the host counts.
func (m *portModel) check(t *rapid.T) {
	for _, d := range m.host.Domains() {
		n := 0
		for name := range m.ports {
			if name.dom == d.ID {
				n++
			}
		}
		if d.Ports != n {
			t.Fatalf("domain %v has %d ports, want %d", d.ID, d.Ports, n)
		}
	}
}

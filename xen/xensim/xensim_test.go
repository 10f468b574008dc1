package xensim_test

import (
	"context"
	"testing"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xen/xentest"
)

// newHost starts a host that lives as long as the test.
func newHost(t testing.TB, cfg xensim.Config) (*xensim.Host, string) {
	t.Helper()
	dir := t.TempDir()
	h, err := xensim.Start(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("Close of the host: %v", err)
		}
	})
	return h, dir
}

func newGuest(t testing.TB, h *xensim.Host, cfg xensim.DomainConfig) *xensim.Domain {
	t.Helper()
	d, err := h.CreateDomain(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func connect(t testing.TB, dir string, dom xen.DomID) *xensim.Conn {
	t.Helper()
	c, err := xensim.Connect(context.Background(), dir, dom)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestConn_suite(t *testing.T) {
	h, dir := newHost(t, xensim.Config{})
	g := newGuest(t, h, xensim.DomainConfig{Name: "guest"})
	back := connect(t, dir, 0)
	xentest.Run(t, xentest.Harness{
		Front: connect(t, dir, g.ID), FrontID: g.ID,
		Back: back, BackID: 0,
		RestartBack: func(t *testing.T) xen.Hypervisor {
			_ = back.Close()
			c, err := xensim.Connect(t.Context(), dir, 0)
			if err != nil {
				t.Fatal(err)
			}
			back = c
			return c
		},
	})
	_ = back.Close()
	for _, d := range h.Domains() {
		if d.Mapped != 0 || d.ForeignMaps != 0 {
			t.Errorf("mappings are left: %+v", d)
		}
	}
}

// One domain may also talk to itself, as domain 0 of a real host does in the rig.
func TestConn_suiteWithinOneDomain(t *testing.T) {
	_, dir := newHost(t, xensim.Config{})
	c := connect(t, dir, 0)
	xentest.Run(t, xentest.Harness{Front: c, Back: c})
}

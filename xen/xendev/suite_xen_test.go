//go:build xen

package xendev

import (
	"testing"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xentest"
	"github.com/xenchan/xenchan/xenstore"
)

// A domain talks to itself: Xen allows it to map its own grants and to bind its own
// ports. This runs in dom0, and in a guest for TestGuest.
func TestSuite_withItself(t *testing.T) {
	back, self := open(t), ownDomID(t)
	t.Logf("in domain %v", self)
	xentest.Run(t, xentest.Harness{
		Front: open(t), FrontID: self,
		Back: back, BackID: self,
		RestartBack: func(t *testing.T) xen.Hypervisor {
			if err := back.Close(); err != nil {
				t.Error(err)
			}
			h, err := Open(Config{})
			if err != nil {
				t.Fatal(err)
			}
			back = h
			return h
		},
	})
	if err := back.Close(); err != nil {
		t.Error(err)
	}
}

// ownDomID is the number of the domain that this test runs in.
func ownDomID(t *testing.T) xen.DomID {
	t.Helper()
	stream, err := open(t).OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	store := xenstore.New(stream)
	defer store.Close()
	value, err := store.Read(t.Context(), "domid")
	if err != nil {
		t.Fatal(err)
	}
	self, err := xen.ParseDomID(value)
	if err != nil {
		t.Fatal(err)
	}
	return self
}

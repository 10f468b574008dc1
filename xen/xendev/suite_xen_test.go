//go:build xen

package xendev

import (
	"testing"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xentest"
)

// Dom0 talks to itself: Xen allows a domain to map its own grants and to bind
// its own ports.
func TestSuite_dom0WithItself(t *testing.T) {
	back := open(t)
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

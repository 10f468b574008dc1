package toolstack_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/xenchan/xenchan/toolstack"
)

// A frontend that the guest leaves alone goes and comes again; one at which it looks in
// the very moment stays: the guest has a ring in it.
func TestAnnounce(t *testing.T) {
	for what, looks := range map[string]bool{"the guest leaves it alone": false, "the guest looks in the last moment": true} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t)
				defer h.close()
				c := h.attach("a")
				h.write(c.Frontend+"/ring-ref", "8", "")
				var once sync.Once
				tools := &toolstack.Toolstack{RunDir: "/run/xenchan", Store: h.connectVia(0, func(conn net.Conn) net.Conn {
					return beforeCommit{conn, func() {
						if looks {
							once.Do(func() { h.check(h.store.Write(context.Background(), c.Frontend+"/state", "3")) })
						}
					}}
				})}
				h.check(tools.Announce(t.Context(), c))
				_, err := h.store.Read(t.Context(), c.Frontend+"/ring-ref")
				want := "1"
				if looks {
					want = "3"
				}
				if state := h.read(c.Frontend + "/state"); state != want || (err == nil) != looks {
					t.Errorf("the frontend's state is %s, and its ring is there: %v", state, err == nil)
				}
			})
		})
	}
}

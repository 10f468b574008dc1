//go:build xen

package realstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/internal/rig/xlguest"
	"github.com/xenchan/xenchan/spool"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xendev"
)

// relayProgram is this test binary in a guest, where it is a relay.
const relayProgram = "/relay"

// guests are the real domains behind storetest's unprivileged ones. A domain
// takes seconds to boot, so one that was not ended is used again, with a new
// connection; but not where the suite looks at how domains come.
type guests struct {
	t    *testing.T
	back *xendev.Hypervisor
	made int
	idle []*xlguest.Guest
	used map[xen.DomID]*xlguest.Guest
}

// newGuests makes a pool that lives as long as t.
func newGuests(t *testing.T) *guests {
	t.Helper()
	h, err := xendev.Open(xendev.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return &guests{t: t, back: h, used: make(map[xen.DomID]*xlguest.Guest)}
}

// take gives a domain, and a connection of it to xenstore until t ends.
func (p *guests) take(t *testing.T) (xen.DomID, io.ReadWriteCloser) {
	t.Helper()
	var g *xlguest.Guest
	if n := len(p.idle); n > 0 && !strings.HasSuffix(t.Name(), "/release/special_watches") {
		g, p.idle = p.idle[n-1], p.idle[:n-1]
	} else {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		p.made++
		g = xlguest.Start(p.t, xlguest.Config{
			Name: fmt.Sprintf("store%d", p.made), Agent: true, Files: map[string]string{relayProgram: self},
		})
	}
	dom := g.DomID()
	p.used[dom] = g
	t.Cleanup(func() {
		if p.used[dom] != nil {
			delete(p.used, dom)
			p.idle = append(p.idle, g)
		}
	})
	return dom, p.connect(t, g, dom)
}

// connect starts a relay in the guest, which ends an earlier one, and attaches to
// its page.
func (p *guests) connect(t *testing.T, g *xlguest.Guest, dom xen.DomID) io.ReadWriteCloser {
	t.Helper()
	out := g.Run("[ -e /tmp/relay.pid ] && kill $(cat /tmp/relay.pid) 2>/dev/null; rm -f /tmp/relay.*\n" + roleVariable + "=" + roleRelay + " " + relayProgram + ` >/tmp/relay.out 2>&1 &
echo $! >/tmp/relay.pid
while kill -0 $! 2>/dev/null && ! grep -qs ready /tmp/relay.out; do usleep 20000; done
cat /tmp/relay.out`)
	var ref, port uint32
	if _, err := fmt.Sscanf(out, "ready %d %d", &ref, &port); err != nil {
		t.Fatalf("relay in the guest said %q", out)
	}
	pages, err := p.back.MapGrants(dom, xen.GrantRef(ref))
	if err != nil {
		t.Fatal(err)
	}
	event, err := p.back.BindInterdomain(dom, xen.Port(port))
	if err != nil {
		t.Fatal(errors.Join(err, pages.Close()))
	}
	conn, err := console.AttachBackend(pages, event, nil, nil, spool.RingID{})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// end destroys a domain that take gave.
func (p *guests) end(t *testing.T, dom xen.DomID) {
	t.Helper()
	p.used[dom].Destroy()
	delete(p.used, dom)
}

// relay runs in a guest: it shares a page with domain 0, says how to attach to
// it, and copies between it and the guest's xenbus device until it is killed.
func relay() error {
	h, err := xendev.Open(xendev.Config{StorePath: "/dev/xen/xenbus"})
	if err != nil {
		return err
	}
	defer h.Close()
	store, err := h.OpenStore(context.Background())
	if err != nil {
		return err
	}
	pages, err := h.SharePages(0, 1)
	if err != nil {
		return err
	}
	event, err := h.AllocUnbound(0)
	if err != nil {
		return err
	}
	ref, port := pages.Refs()[0], event.Port()
	conn, err := console.AttachFrontend(pages, event)
	if err != nil {
		return err
	}
	fmt.Printf("ready %v %v\n", ref, port)
	ended := make(chan error, 2)
	go func() { _, err := io.Copy(conn, store); ended <- err }()
	go func() { _, err := io.Copy(store, conn); ended <- err }()
	err = <-ended
	_, _ = conn.Write(bytes.Repeat([]byte{0xff}, 16)) // no header of a message: the suite hangs up
	return err
}

//go:build xen

package xendev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xentest"
	"github.com/xenchan/xenchan/xenstore"
)

// peerVariable makes this test binary the other end, in a guest.
const peerVariable = "XENCHAN_XENDEV_PEER"

func TestMain(m *testing.M) {
	if os.Getenv(peerVariable) != "" {
		fmt.Fprintln(os.Stderr, peer())
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// peer shares a page with domain 0, says where, and answers each event: it adds
// one to the first byte and notifies. It finds its own name in xenstore, which
// in a guest is the device alone.
func peer() error {
	h, err := Open(Config{})
	if err != nil {
		return err
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(context.Background(), xlguest.Patience)
	defer cancel()
	stream, err := h.OpenStore(ctx)
	if err != nil {
		return err
	}
	store := xenstore.New(stream)
	defer store.Close()
	name, err := store.Read(ctx, "name")
	if err != nil {
		return err
	}
	pages, err := h.SharePages(0, 2)
	if err != nil {
		return err
	}
	event, err := h.AllocUnbound(0)
	if err != nil {
		return err
	}
	copy(pages.Bytes()[xen.PageSize-5:], "across the edge")
	refs := pages.Refs()
	fmt.Printf("peer %v %v %v %s\n", refs[0], refs[1], event.Port(), name)
	failed := make(chan error, 1)
	event.Serve(func(err error) time.Duration {
		pages.Bytes()[0]++
		if err = errors.Join(err, event.Notify()); err != nil {
			failed <- err
			return xen.Masked
		}
		return 0
	})
	return <-failed
}

// A guest passes the suite too; then a program in it and dom0 share memory and
// events, and it is destroyed while its pages are mapped.
func TestGuest(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g := xlguest.Start(t, xlguest.Config{Agent: true, Files: map[string]string{"/peer": self}})
	ctx, cancel := context.WithTimeout(t.Context(), 2*xlguest.Patience)
	defer cancel()
	out, status, err := g.Exec(ctx, "/peer -test.run '^TestSuite_withItself$' -test.v")
	if err != nil || status != 0 || !strings.Contains(out, "in domain "+g.DomID().String()) || strings.Count(out, "--- PASS: TestSuite_withItself/Grant/") != 10 {
		t.Errorf("the suite in the guest: status %d, %v\n%s", status, err, out)
	}
	sharesAndDies(t, g)
}

func sharesAndDies(t *testing.T, g *xlguest.Guest) {
	t.Helper()
	out := g.Run(peerVariable + `=1 /peer >/tmp/peer.out 2>&1 &
while kill -0 $! 2>/dev/null && ! grep -qs peer /tmp/peer.out; do usleep 20000; done
cat /tmp/peer.out`)
	var refs [2]uint32
	var port uint32
	var name string
	if _, err := fmt.Sscanf(out, "peer %d %d %d %s", &refs[0], &refs[1], &port, &name); err != nil {
		t.Fatalf("the peer said %q", out)
	}
	if name != g.Name() {
		t.Errorf("the guest's store says that it is %q", name)
	}
	h, dom := open(t), g.DomID()
	pages, err := h.MapGrants(dom, xen.GrantRef(refs[0]), xen.GrantRef(refs[1]))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(pages.Bytes()[xen.PageSize-5:][:15]); got != "across the edge" {
		t.Errorf("the guest's memory has %q", got)
	}
	bound, err := h.BindInterdomain(dom, xen.Port(port))
	if err != nil {
		t.Fatal(err)
	}
	event := xentest.Wait(bound)
	// The binding itself is an event here and none there.
	if err := errors.Join(event.Wait(), event.Unmask()); err != nil {
		t.Fatal(err)
	}
	for want := byte(1); want <= 20; want++ {
		if err := errors.Join(event.Notify(), event.Wait(), event.Unmask()); err != nil {
			t.Fatal(err)
		}
		if got := pages.Bytes()[0]; got != want {
			t.Fatalf("round %d: the guest wrote %d", want, got)
		}
	}
	g.Destroy()
	afterDeath(t, h, dom, pages, event)
}

// afterDeath checks what a backend may rely on when its guest is gone.
func afterDeath(t *testing.T, h *Hypervisor, dom xen.DomID, pages xen.Pages, event xen.EventChannel) {
	t.Helper()
	if got := pages.Bytes()[0]; got != 20 {
		t.Errorf("the dead guest's memory has %d", got)
	}
	if err := event.Notify(); err != nil {
		t.Errorf("notifying the dead guest: %v", err)
	}
	if !listed(t, dom) {
		t.Error("the domain went although its page is mapped: is this the page?")
	}
	if err := pages.Close(); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(xlguest.Patience); listed(t, dom); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the domain is still there after its pages were unmapped")
		}
	}
	if _, err := h.BindInterdomain(dom, event.Port()); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("binding to the gone domain: %v", err)
	}
	if _, err := h.MapGrants(dom, 8); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("mapping of the gone domain: %v", err)
	}
	if err := event.Close(); err != nil {
		t.Error(err)
	}
}

// listed reports whether Xen has the domain, also as a zombie.
func listed(t *testing.T, dom xen.DomID) bool {
	t.Helper()
	out, err := xlguest.XL(t.Context(), "list")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == dom.String() {
			return true
		}
	}
	return false
}

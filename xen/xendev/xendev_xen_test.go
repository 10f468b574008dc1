//go:build xen

package xendev

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xentest"
	"github.com/xenchan/xenchan/xenstore"
)

// open gives dom0's hypervisor for the length of a test.
func open(t *testing.T) *Hypervisor {
	t.Helper()
	h, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// Both ends are dom0 itself.
const self xen.DomID = 0

func TestLoopback_grantsAndEvents(t *testing.T) {
	front, back := open(t), open(t)
	shared, err := front.SharePages(self, 2)
	if err != nil {
		t.Fatal(err)
	}
	mapped, err := back.MapGrants(self, shared.Refs()...)
	if err != nil {
		t.Fatal(err)
	}
	copy(shared.Bytes()[xen.PageSize-2:], "over the edge")
	if !bytes.Equal(shared.Bytes(), mapped.Bytes()) {
		t.Error("the two ends see different memory")
	}
	a, err := front.AllocUnbound(self)
	if err != nil {
		t.Fatal(err)
	}
	bound, err := back.BindInterdomain(self, a.Port())
	if err != nil {
		t.Fatal(err)
	}
	b := xentest.Wait(bound)
	if err := b.Wait(); err != nil { // pending from the bind
		t.Fatal(err)
	}
	if err := errors.Join(b.Unmask(), a.Notify(), b.Wait()); err != nil {
		t.Fatal(err)
	}
}

func TestClose_wakesWait(t *testing.T) {
	h := open(t)
	port, err := h.AllocUnbound(self)
	if err != nil {
		t.Fatal(err)
	}
	c := xentest.Wait(port)
	woken := make(chan error, 1)
	go func() { woken <- c.Wait() }()
	time.Sleep(100 * time.Millisecond)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-woken; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Wait ended with %v", err)
	}
}

func TestErrors_keepTheErrno(t *testing.T) {
	h := open(t)
	if _, err := h.BindInterdomain(self, 4000); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("bind to a port that nobody allocated: %v", err)
	}
	if _, err := h.BindInterdomain(4321, 1); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("bind to a domain that is not there: %v", err)
	}
	if _, err := h.MapGrants(self, 777777); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("map what was not granted: %v", err)
	}
	_, err := h.MapGrants(4321, 8)
	t.Logf("map from a domain that is not there: %v", err)
	if err == nil {
		t.Error("mapped a page of a domain that is not there")
	}
}

func TestOpenStore_everyTransport(t *testing.T) {
	for _, path := range []string{"", "/dev/xen/xenbus", "/proc/xen/xenbus"} {
		h, err := Open(Config{StorePath: path})
		if err != nil {
			t.Fatal(err)
		}
		stream, err := h.OpenStore(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		store := xenstore.New(stream)
		if name, err := store.Read(t.Context(), "/local/domain/0/name"); err != nil || string(name) != "Domain-0" {
			t.Errorf("through %q: name %q, error %v", path, name, err)
		}
		if err := errors.Join(store.Close(), h.Close()); err != nil {
			t.Errorf("closing %q: %v", path, err)
		}
	}
}

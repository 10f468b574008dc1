package toolstack_test

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
)

// What a guest says is noted where it cannot write or look.
func TestReady(t *testing.T) {
	h := newHost(t)
	defer h.close()
	ctx := t.Context()
	ready := func(dom xen.DomID) string {
		t.Helper()
		text, err := toolstack.ReadReady(ctx, h.store, dom)
		h.check(err)
		return text
	}
	if got := ready(web.ID); got != "" {
		t.Errorf("before: %q", got)
	}
	for _, text := range []string{"no disk", "ok"} {
		h.check(h.tools.SetReady(ctx, web, text))
		if got := ready(web.ID); got != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
	if got := ready(6); got != "" {
		t.Errorf("another domain: %q", got)
	}
	const node = "/libxl/5/xenchan/ready"
	guest := h.connect(web.ID)
	if _, err := guest.Read(ctx, node); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a guest reads it: %v", err)
	}
	for _, path := range []string{node, "/libxl/5/xenchan/other"} {
		if err := guest.Write(ctx, path, "ok"); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("a guest writes %s: %v", path, err)
		}
	}
	same := h.unchanged()
	if err := h.tools.SetReady(ctx, toolstack.Domain{ID: 77, Name: "gone"}, "ok"); !errors.Is(err, toolstack.ErrNoDomain) {
		t.Errorf("a domain that has gone: %v", err)
	}
	same()
}

package toolstack_test

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/toolstack"
)

func TestDomains(t *testing.T) {
	h := newHost(t)
	defer h.close()
	h.addDomain(toolstack.Domain{ID: 12, Name: "ten"})
	h.write("/local/domain/junk/name", "x", "")
	got, err := h.tools.Domains(t.Context())
	h.check(err)
	want := []toolstack.Domain{
		{ID: 0, Name: "Domain-0"},
		web,
		{ID: 6, Name: "drv"},
		{ID: 12, Name: "ten"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestResolve(t *testing.T) {
	h := newHost(t)
	defer h.close()
	h.addDomain(toolstack.Domain{ID: 7, Name: "5"}) // a name of digits is a domid
	h.addDomain(toolstack.Domain{ID: 8, Name: "", UUID: "abcdefab-0000-0000-0000-00000000000a"})
	for want, id := range map[string]int{
		"web": 5, "5": 5, "7": 7, web.UUID: 5, "ABCDEFAB-0000-0000-0000-00000000000A": 8, "Domain-0": 0, "0": 0,
	} {
		if d, err := h.tools.Resolve(t.Context(), want); err != nil || int(d.ID) != id {
			t.Errorf("%q: %v, %v; want domain %d", want, d, err, id)
		}
	}
	for want, says := range map[string]string{
		"wbe": "did you mean web?", "99": "no such domain", "": "no such domain", "nothing like it": "no such domain", "WEB": "no such domain",
	} {
		if d, err := h.tools.Resolve(t.Context(), want); !errors.Is(err, toolstack.ErrNoDomain) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, %v; want %q", want, d, err, says)
		}
	}
}

func TestChannels(t *testing.T) {
	h := newHost(t)
	defer h.close()
	if all, err := h.tools.Channels(t.Context(), web); len(all) > 0 || err != nil {
		t.Errorf("none yet: %v, %v", all, err)
	}
	h.write("/libxl/5/device/console/0/frontend", "/local/domain/5/console", "")
	h.write("/libxl/5/device/console/0/name", "primary", "") // which makes no channel of it
	h.write("/libxl/5/device/console/junk/name", "junk", "")
	a, b := h.attach("a"), h.attach("b")
	// One that xl made, served by QEMU.
	x := h.attach("x")
	h.write(x.Frontend+"/type", "ioemu", "")
	h.check(h.store.Remove(t.Context(), "/libxl/5/device/console/3/origin"))
	_, err := h.tools.Declare(t.Context(), web, channel.Spec{Name: "y", Connection: channel.Socket}, "y.toml")
	h.check(err)
	h.write(x.Frontend+"/tty", "/dev/pts/3", "")
	h.write("/local/domain/5/image/device-model-pid", strconv.Itoa(os.Getpid()), "")
	// The guest's word: good for a, nonsense for b.
	h.states(a, "4", "3")
	h.write(a.Frontend+"/port", "9", "")
	h.write(a.Frontend+"/ring-ref", "0", "")
	h.write(b.Frontend+"/state", "44", "")
	h.write(b.Frontend+"/port", "0", "")
	h.write(b.Frontend+"/ring-ref", "-8", "")
	h.write(b.Frontend+"/backend", "/somewhere/else", "")
	h.check(h.store.Remove(t.Context(), b.Frontend+"/tty"))

	all, err := h.tools.Channels(t.Context(), web)
	h.check(err)
	if len(all) != 4 || all[0].Name != "a" || all[1].Name != "b" || all[2].Name != "x" {
		t.Fatalf("%+v", all)
	}
	for i, want := range []channel.Origin{channel.OriginAttached, channel.OriginAttached, channel.OriginXL, channel.OriginDeclared} {
		if all[i].Origin != want {
			t.Errorf("%s: origin %q, want %q", all[i].Name, all[i].Origin, want)
		}
	}
	const spec = "connection=socket,name=y"
	if y := all[3]; y.DeclaredIn != "y.toml" || y.DeclaredAs != spec {
		t.Errorf("declared in %q as %q", y.DeclaredIn, y.DeclaredAs)
	}
	h.check(h.tools.Redeclare(t.Context(), web, all[3], "z.toml"))
	h.check(h.tools.Redeclare(t.Context(), web, all[0], "z.toml")) // by hand it stays
	if y, err := h.tools.Find(t.Context(), web, "y"); err != nil || y.DeclaredIn != "z.toml" || y.DeclaredAs != spec {
		t.Errorf("declared in %q as %q, %v", y.DeclaredIn, y.DeclaredAs, err)
	}
	if a, err := h.tools.Find(t.Context(), web, "a"); err != nil || a.Origin != channel.OriginAttached || a.DeclaredIn != "" {
		t.Errorf("%+v, %v", a, err)
	}
	got := all[0]
	if *got.State != 4 || *got.FrontendState != 3 || *got.Port != 9 || *got.RingRef != 0 || got.NoTTY {
		t.Errorf("a: %+v", got)
	}
	got = all[1]
	if *got.FrontendState != 0 || got.Port != nil || got.RingRef != nil || got.Backend != b.Backend || !got.NoTTY {
		t.Errorf("b: %+v", got)
	}
	got = all[2]
	if got.Type != "ioemu" || got.TTY != "/dev/pts/3" {
		t.Errorf("x: %+v", got)
	}

	if x := all[2]; x.ServedBy != channel.ServerQEMU || x.QEMUPID == nil || *x.QEMUPID != os.Getpid() || all[0].ServedBy != channel.ServerNone || all[0].QEMUPID != nil {
		t.Errorf("x is served by %s, a by %s", x.ServedBy, all[0].ServedBy)
	}
	for _, gone := range []string{"4194305", "-1", "0", "qemu", ""} { // no Linux has that many processes
		h.write("/local/domain/5/image/device-model-pid", gone, "")
		if x, err := h.tools.Find(t.Context(), web, "x"); err != nil || x.ServedBy != channel.ServerNone || x.QEMUPID != nil {
			t.Errorf("with the pid %q, x is served by %s, %v", gone, x.ServedBy, err)
		}
	}

	// A guest that deletes its directory does not take the channel from the list.
	h.check(h.connect(web.ID).Remove(t.Context(), a.Frontend))
	got, err = h.tools.Find(t.Context(), web, "a")
	if err != nil || got.FrontendState != nil || got.Type != "" || got.Path == "" || got.Connection != channel.Socket {
		t.Errorf("%+v, %v", got, err)
	}
}

// A driver domain owns the backend's directory and may write what it likes there.
// What a channel is, and where its host end, comes from /libxl (XSA-178).
func TestChannels_driverDomainLies(t *testing.T) {
	h := newHost(t)
	defer h.close()
	c, err := h.tools.Attach(t.Context(), web, channel.Spec{Name: "true", Connection: channel.Socket, Path: "/run/true.sock", Backend: "drv"})
	h.check(err)
	for node, lie := range map[string]string{"name": "lie", "path": "/run/lie.sock", "connection": "pty", "frontend-id": "0", "mode": "0666", "state": "junk"} {
		h.write(c.Backend+"/"+node, lie, "")
	}
	all, err := h.tools.Channels(t.Context(), web)
	h.check(err)
	if len(all) != 1 || all[0].Name != "true" || all[0].Path != "/run/true.sock" || all[0].Connection != channel.Socket || all[0].DomID != 5 {
		t.Errorf("%+v", all)
	}
}

package xensim_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/wire"
)

func TestStart_socketModes(t *testing.T) {
	h, dir := newHost(t, xensim.Config{})
	for name, want := range map[string]fs.FileMode{"xen.sock": 0o666, "xenstored.sock": 0o600} {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || fi.Mode() != want|fs.ModeSocket {
			t.Errorf("%s: mode %v, %v; want %v", name, fi.Mode(), err, want)
		}
	}
	_ = h.Close()
	for _, name := range []string{"xen.sock", "xenstored.sock"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left after Close: %v", name, err)
		}
	}
}

func TestStart_keepsForeignFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "xen.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := xensim.Start(dir, xensim.Config{}); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("start over a file: %v, want EEXIST", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file holds %q now", b)
	}
}

func TestCreateDomain_nodes(t *testing.T) {
	h, dir := newHost(t, xensim.Config{})
	g := newGuest(t, h, xensim.DomainConfig{Name: "web", UUID: "11112222-3333-4444-5555-666677778888"})
	if g.ID != 1 {
		t.Errorf("the first guest is domain %v", g.ID)
	}
	ctx := t.Context()
	xs, err := xenstore.Open(ctx, h.StorePath())
	if err != nil {
		t.Fatal(err)
	}
	defer xs.Close()
	vm := "/vm/11112222-3333-4444-5555-666677778888"
	for _, n := range []struct{ path, value, perms string }{
		{"/local/domain/0/name", "Domain-0", "n0"},
		{"/local/domain/0/domid", "0", "n0"},
		{"/local/domain/0/backend", "", "n0"},
		{"/local/domain/1", "", "n0,r1"},
		{"/local/domain/1/name", "web", "n0,r1"},
		{"/local/domain/1/domid", "1", "n0,r1"},
		{"/local/domain/1/vm", vm, "n0,r1"},
		{"/local/domain/1/device", "", "n0,r1"},
		{"/local/domain/1/data", "", "n1"},
		{"/local/domain/1/console/type", "xenconsoled", "n0,r1"},
		{"/local/domain/1/control/platform-feature-xs_reset_watches", "1", "n0,r1"},
		{vm + "/uuid", "11112222-3333-4444-5555-666677778888", "n0,r1"},
		{vm + "/name", "web", "n0,r1"},
		{"/libxl/1", "", "n0"},
		{"/libxl/1/dm-version", "qemu_xen", "n0"},
	} {
		value, err := xs.Read(ctx, n.path)
		perms, perr := xs.Perms(ctx, n.path)
		if err != nil || perr != nil || value != n.value || perms.String() != n.perms {
			t.Errorf("%s = %q (%v), want %q (%s); %v, %v", n.path, value, perms, n.value, n.perms, err, perr)
		}
	}
	if ok, err := xs.IsIntroduced(ctx, g.ID); !ok || err != nil {
		t.Errorf("IsIntroduced: %v, %v", ok, err)
	}
	guest := openStore(t, connect(t, dir, g.ID))
	if name, err := guest.Read(ctx, "name"); name != "web" || err != nil {
		t.Errorf("the guest reads its name as %q, %v", name, err)
	}
	if err := guest.Write(ctx, "name", "evil"); !errors.Is(err, syscall.EACCES) {
		t.Errorf("the guest writes its name: %v, want EACCES", err)
	}
	if err := guest.Write(ctx, "data/x", "1"); err != nil {
		t.Errorf("the guest writes below data: %v", err)
	}
}

func TestCreateDomain_refuses(t *testing.T) {
	h, _ := newHost(t, xensim.Config{})
	g := newGuest(t, h, xensim.DomainConfig{Name: "taken"})
	for _, c := range []struct {
		cfg  xensim.DomainConfig
		want syscall.Errno
	}{
		{xensim.DomainConfig{}, syscall.EINVAL},
		{xensim.DomainConfig{Name: "taken"}, syscall.EEXIST},
		{xensim.DomainConfig{Name: "Domain-0"}, syscall.EEXIST},
		{xensim.DomainConfig{Name: "x", UUID: g.UUID}, syscall.EEXIST},
		{xensim.DomainConfig{Name: "x", UUID: "../../local"}, syscall.EINVAL},
		{xensim.DomainConfig{Name: "x", OnCrash: "explode"}, syscall.EINVAL},
	} {
		if d, err := h.CreateDomain(c.cfg); !errors.Is(err, c.want) {
			t.Errorf("CreateDomain(%+v) = %v, %v; want %v", c.cfg, d, err, c.want)
		}
	}
	if err := h.DestroyDomain(0); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("destroy of domain 0: %v, want EINVAL", err)
	}
	if err := h.DestroyDomain(7); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("destroy of no domain: %v, want ESRCH", err)
	}
	if err := h.DestroyDomain(g.ID); err != nil {
		t.Fatal(err)
	}
	if again := newGuest(t, h, xensim.DomainConfig{Name: "taken"}); again.ID == g.ID {
		t.Errorf("domid %v was used again", g.ID)
	}
}

// A device that /libxl lists goes with its domain, in both domains' trees.
func TestDestroyDomain_removesDevices(t *testing.T) {
	h, dir := newHost(t, xensim.Config{})
	g := newGuest(t, h, xensim.DomainConfig{Name: "web"})
	newGuest(t, h, xensim.DomainConfig{Name: "other"})
	ctx := t.Context()
	xs := openStore(t, connect(t, dir, 0))
	guest := openStore(t, connect(t, dir, g.ID))
	const (
		back  = "/local/domain/0/backend/console/1/1"
		front = "/local/domain/1/device/console/1"
		lib   = "/libxl/1/device/console/1"
	)
	for path, value := range map[string]string{
		lib + "/backend": back, lib + "/frontend": front, back + "/state": "4", front + "/state": "4",
		"/local/domain/0/backend/console/2/1/state": "4",
		"/libxl/1/device/vbd/1/backend":             "/", // must not be believed
		"/libxl/1/device/vif/1/frontend":            front,
	} {
		if err := xs.Write(ctx, path, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := xs.SetPerms(ctx, front, wire.Perms{{Access: 'n', DomID: 1}, {Access: 'r'}}); err != nil {
		t.Fatal(err)
	}
	if err := h.DestroyDomain(g.ID); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/local/domain/0/backend/console/1", "/local/domain/1", "/libxl/1", "/vm/" + g.UUID} {
		if ok, err := xs.Exists(ctx, path); ok || err != nil {
			t.Errorf("%s is left: %v, %v", path, ok, err)
		}
	}
	for _, path := range []string{"/local/domain/0/backend/console/2/1/state", "/local/domain/2/name", "/tool"} {
		if ok, err := xs.Exists(ctx, path); !ok || err != nil {
			t.Errorf("%s is gone: %v, %v", path, ok, err)
		}
	}
	if _, err := guest.Read(ctx, "name"); err == nil {
		t.Error("the store still answers a destroyed guest")
	}
	if ok, err := xs.IsIntroduced(ctx, g.ID); ok || err != nil {
		t.Errorf("IsIntroduced: %v, %v", ok, err)
	}
	if _, err := xensim.Connect(ctx, dir, g.ID); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("connect as a destroyed guest: %v, want ESRCH", err)
	}
}

func TestShutdownDomain_keepsEverything(t *testing.T) {
	h, dir := newHost(t, xensim.Config{})
	g := newGuest(t, h, xensim.DomainConfig{Name: "web"})
	front, back := connect(t, dir, g.ID), connect(t, dir, 0)
	ch, err := front.AllocUnbound(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.ShutdownDomain(g.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := back.BindInterdomain(g.ID, ch.Port()); err != nil {
		t.Errorf("bind to a domain that is shut down: %v", err)
	}
	if ok, err := openStore(t, back).Exists(t.Context(), "/local/domain/1/name"); !ok || err != nil {
		t.Errorf("nodes of a domain that is shut down: %v, %v", ok, err)
	}
	if _, err := xensim.Connect(t.Context(), dir, g.ID); !errors.Is(err, syscall.ESHUTDOWN) {
		t.Errorf("connect as a domain that is shut down: %v, want ESHUTDOWN", err)
	}
	_ = front.Close() // is no crash any more
	eventually(t, "connection gone", func() bool { return info(h, g.ID).Connections == 0 })
	if d := info(h, g.ID); d.State != xensim.StateShutdown {
		t.Errorf("domain is %v", d.State)
	}
}

func TestConn_lastOneIsTheGuestsLife(t *testing.T) {
	h, dir := newHost(t, xensim.Config{})
	gone := newGuest(t, h, xensim.DomainConfig{Name: "gone"})
	kept := newGuest(t, h, xensim.DomainConfig{Name: "kept", OnCrash: xensim.CrashPreserve})
	one, two := connect(t, dir, gone.ID), connect(t, dir, gone.ID)
	_ = one.Close()
	eventually(t, "first connection gone", func() bool { return info(h, gone.ID).Connections == 1 })
	if d := info(h, gone.ID); d.State != xensim.StateRunning {
		t.Errorf("with one connection of two the guest is %v", d.State)
	}
	_ = two.Close()
	eventually(t, "crashed guest destroyed", func() bool { return info(h, gone.ID) == nil })
	_ = connect(t, dir, kept.ID).Close()
	eventually(t, "crashed guest shut down", func() bool { return info(h, kept.ID).State == xensim.StateShutdown })
	_ = connect(t, dir, 0).Close()
	if d := info(h, 0); d == nil || d.State != xensim.StateRunning {
		t.Errorf("domain 0 is %+v after its last connection", d)
	}
}

// What two domains did with each other leaves nothing behind, in the host and
// in the clients, which share this process.
func TestConn_leaksNothing(t *testing.T) {
	h, dir := newHost(t, xensim.Config{})
	g := newGuest(t, h, xensim.DomainConfig{Name: "web"})
	front, back := connect(t, dir, g.ID), connect(t, dir, 0)
	cycle := func() {
		a, err := front.AllocUnbound(0)
		if err != nil {
			t.Fatal(err)
		}
		b, err := back.BindInterdomain(g.ID, a.Port())
		if err != nil {
			t.Fatal(err)
		}
		mem, err := front.SharePages(0, 2)
		if err != nil {
			t.Fatal(err)
		}
		m, err := back.MapGrants(g.ID, mem.Refs()...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := back.MapGrants(g.ID, mem.Refs()[0], 1); err == nil {
			t.Fatal("a bad reference was mapped")
		}
		stream, err := front.OpenStore(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(b.Close(), a.Close(), mem.Close(), m.Close(), stream.Close()); err != nil {
			t.Fatal(err)
		}
	}
	cycle()
	settled := func(want int) bool { runtime.Gosched(); return openFiles(t) <= want }
	before := openFiles(t)
	for range 1000 {
		cycle()
	}
	eventually(t, "as many descriptors as before", func() bool { return settled(before) })
	for _, id := range []xen.DomID{0, g.ID} {
		if d := info(h, id); d.Ports+d.Grants+d.Mapped+d.ForeignMaps != 0 {
			t.Errorf("left behind: %+v", *d)
		}
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}

func TestConn_closeGivesAllBack(t *testing.T) {
	h, dir := newHost(t, xensim.Config{})
	g := newGuest(t, h, xensim.DomainConfig{Name: "web"})
	front := connect(t, dir, g.ID)
	back, err := xensim.Connect(t.Context(), dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := front.AllocUnbound(0)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := front.SharePages(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := back.BindInterdomain(g.ID, ch.Port()); err != nil {
		t.Fatal(err)
	}
	if _, err := back.MapGrants(g.ID, mem.Refs()...); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(back.Close(), back.Close()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing mapped or bound", func() bool { d := info(h, 0); return d.Ports+d.Mapped == 0 })
	_, err1 := back.AllocUnbound(0)
	_, err2 := back.OpenStore(t.Context())
	for _, err := range []error{err1, err2} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("hypercall after Close: %v, want os.ErrClosed", err)
		}
	}
}

func TestGrant_endedWhileMapped(t *testing.T) {
	h, dir := newHost(t, xensim.Config{})
	g := newGuest(t, h, xensim.DomainConfig{Name: "web"})
	front, back := connect(t, dir, g.ID), connect(t, dir, 0)
	mem, err := front.SharePages(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	ref := mem.Refs()[0]
	if ref != 8 {
		t.Errorf("the first reference is %v, want 8 as on Linux", ref)
	}
	m, err := back.MapGrants(g.ID, ref)
	if err != nil {
		t.Fatal(err)
	}
	_ = mem.Close()
	if _, err := back.MapGrants(g.ID, ref); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("map of an ended grant: %v, want EINVAL", err)
	}
	next, err := front.SharePages(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if next.Refs()[0] == ref {
		t.Error("a reference was given out again while the old page is mapped")
	}
	_ = m.Close()
	if d := info(h, g.ID); d.Grants != 1 || d.ForeignMaps != 0 {
		t.Errorf("domain is %+v", *d)
	}
}

func TestConfig_fault(t *testing.T) {
	var broken atomic.Uint32
	_, dir := newHost(t, xensim.Config{Fault: func(op xensim.Op, _ xen.DomID) error {
		switch op {
		case xensim.Op(broken.Load()):
			return syscall.ENOMEM
		case xensim.OpUnmap:
			return errors.New("without an errno")
		}
		return nil
	}})
	broken.Store(uint32(xensim.OpHello))
	if _, err := xensim.Connect(t.Context(), dir, 0); !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("hello: %v, want ENOMEM", err)
	}
	broken.Store(uint32(xensim.OpMap))
	c := connect(t, dir, 0)
	mem, err := c.SharePages(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.MapGrants(0, mem.Refs()...); !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("map: %v, want ENOMEM", err)
	}
	broken.Store(0)
	m, err := c.MapGrants(0, mem.Refs()...)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); !errors.Is(err, syscall.EIO) {
		t.Errorf("unmap: %v, want EIO", err)
	}
}

package toolstack_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/storeserver"
	"github.com/xenchan/xenchan/xenstore/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a xenstore with some domains in it, over connections in memory, so
// that a test may also run in the virtual time of synctest.
type host struct {
	t      testing.TB
	server *storeserver.Server
	wg     sync.WaitGroup
	store  *xenstore.Store // as domain 0
	tools  *toolstack.Toolstack
	closed []func() error
}

var web = toolstack.Domain{ID: 5, Name: "web", UUID: "00000000-0000-0000-0000-000000000005"}

func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{t: t, server: storeserver.New(storeserver.Config{})}
	h.store = h.connect(0)
	h.tools = &toolstack.Toolstack{Store: h.store, RunDir: "/run/xenchan"}
	h.write("/local/domain/0/name", "Domain-0", "n0")
	h.write("/local/domain", "", "n0")
	h.write("/local/domain/0/backend", "", "n0")
	h.write("/libxl", "", "n0")
	h.addDomain(web)
	h.addDomain(toolstack.Domain{ID: 6, Name: "drv"})
	return h
}

// addDomain writes what libxl writes for a domain before its devices.
func (h *host) addDomain(d toolstack.Domain) {
	h.t.Helper()
	home, ro := "/local/domain/"+d.ID.String(), "n0,r"+d.ID.String()
	h.write(home, "", ro)
	h.write(home+"/name", d.Name, ro)
	h.write(home+"/device", "", ro)
	h.write("/libxl/"+d.ID.String(), "", "n0")
	h.write("/libxl/"+d.ID.String()+"/type", "pvh", "n0")
	if d.UUID != "" {
		h.write(home+"/vm", "/vm/"+d.UUID, ro)
	}
	h.check(h.server.IntroduceDomain(d.ID))
}

func (h *host) connect(dom xen.DomID) *xenstore.Store {
	return h.connectVia(dom, func(c net.Conn) net.Conn { return c })
}

// connectVia has something between the client and the store.
func (h *host) connectVia(dom xen.DomID, between func(net.Conn) net.Conn) *xenstore.Store {
	ours, theirs := net.Pipe()
	h.wg.Go(func() { _ = h.server.ServeConn(theirs, dom) })
	s := xenstore.New(between(ours))
	h.closed = append(h.closed, s.Close)
	return s
}

// beforeCommit calls f before each commit that passes.
type beforeCommit struct {
	net.Conn
	f func()
}

func (b beforeCommit) Write(p []byte) (int, error) {
	for rest := p; len(rest) >= wire.HeaderSize; {
		if wire.Type(binary.NativeEndian.Uint32(rest)) == wire.TransactionEnd {
			b.f()
		}
		n := int(binary.NativeEndian.Uint32(rest[12:]))
		rest = rest[min(len(rest), wire.HeaderSize+n):]
	}
	return b.Conn.Write(p)
}

// close ends the store. It is no Cleanup, as those run outside of a synctest bubble.
func (h *host) close() {
	for _, c := range h.closed {
		_ = c()
	}
	_ = h.server.Close()
	h.wg.Wait()
}

func (h *host) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) write(path, value, perms string) {
	h.t.Helper()
	ctx := context.Background()
	h.check(h.store.Write(ctx, path, value))
	if perms == "" {
		return
	}
	p, err := wire.ParsePerms(strings.Split(perms, ","))
	h.check(err)
	h.check(h.store.SetPerms(ctx, path, p))
}

func (h *host) read(path string) string {
	h.t.Helper()
	v, err := h.store.Read(context.Background(), path)
	h.check(err)
	return v
}

// dump is every node as "path value perms", sorted.
func (h *host) dump() []string {
	h.t.Helper()
	var all []string
	ctx := context.Background()
	var walk func(path string)
	walk = func(path string) {
		value, err := h.store.Read(ctx, path)
		h.check(err)
		perms, err := h.store.Perms(ctx, path)
		h.check(err)
		all = append(all, fmt.Sprintf("%s %q %v", path, value, perms))
		names, err := h.store.List(ctx, path)
		h.check(err)
		for _, n := range names {
			walk(strings.TrimSuffix(path, "/") + "/" + n)
		}
	}
	walk("/")
	slices.Sort(all)
	return all
}

// added is what is in the second dump alone; nothing may be in the first alone.
func (h *host) added(before, after []string) []string {
	h.t.Helper()
	for _, line := range before {
		if !slices.Contains(after, line) {
			h.t.Errorf("lost or changed: %s", line)
		}
	}
	return slices.DeleteFunc(slices.Clone(after), func(line string) bool { return slices.Contains(before, line) })
}

// unchanged is for `defer h.unchanged()()`: nothing in the store may change meanwhile.
func (h *host) unchanged() func() {
	h.t.Helper()
	before := h.dump()
	return func() {
		h.t.Helper()
		for _, line := range h.added(before, h.dump()) {
			h.t.Errorf("left behind: %s", line)
		}
	}
}

func (h *host) attach(name string) toolstack.Channel {
	h.t.Helper()
	c, err := h.tools.Attach(context.Background(), web, socket(name))
	h.check(err)
	return c
}

func socket(name string) channel.Spec {
	return channel.Spec{Name: name, Connection: channel.Socket}
}

// files is everything below a directory.
func files(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			all = append(all, fmt.Sprintln(path, info.Mode(), info.Size()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "")
}

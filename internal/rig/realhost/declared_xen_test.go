//go:build xen

package realhost

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// declare writes a drop-in file for a domain, which the test takes away again.
func declare(t *testing.T, domain, name string, specs ...string) string {
	t.Helper()
	file := filepath.Join("/etc/xenchan/channels.d", name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[[domain]]\nmatch = %q\nchannels = [ \"%s\" ]\n", domain, strings.Join(specs, "\", \""))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(file) })
	return file
}

const declaredName = "org.example.declared.0"

// declaredWorks waits until a domain has its declared channel, and uses it.
func declaredWorks(t *testing.T, g *xlguest.Guest, tty string) channel.Info {
	t.Helper()
	c := connected(t, g.Name(), declaredName)[declaredName]
	echoAgent(g, tty)
	echo(t, client(t, c.Path), 4096)
	if c.Origin != channel.OriginDeclared || c.DomID != uint16(g.DomID()) {
		t.Errorf("%+v", c)
	}
	return c
}

// A domain has its declared channel when xl creates it, reboots it, restores it
// and migrates it in, beside the channel that xl gives it; until it is taken away.
func TestDeclared(t *testing.T) {
	startDaemon(t).ready()
	file := declare(t, "TestDecl*", "a.toml", "connection=socket,name="+declaredName)
	xenchan(t, "apply")
	// xl 4.17 loses the first channel of a domain.
	g := xlguest.Start(t, xlguest.Config{Extra: `channel = [ "connection=pty,name=lost", "connection=pty,name=org.example.stock.0" ]`})
	began := time.Now()
	c := declaredWorks(t, g, "/dev/hvc2")
	if stock := connected(t, g.Name(), "org.example.stock.0")["org.example.stock.0"]; c.DevID != 2 || stock.DevID != 1 || stock.Origin != channel.OriginXL {
		t.Errorf("ours %+v\nthat of xl %+v", c, stock)
	}
	compareWithXL(t, g)
	step := func(what string, do func()) {
		do()
		t.Logf("%s: %v", what, time.Since(began).Round(time.Millisecond))
		began = time.Now()
	}
	step("created", func() {})
	step("rebooted", func() {
		old := g.DomID()
		g.Reboot()
		eventually(t, "no zombie of the old one", func() bool { return !strings.Contains(xl(t, "list"), "(null)") })
		nodesGo(t, "/backend/console/"+old.String()+"/")
		declaredWorks(t, g, "/dev/hvc2")
	})
	saved := filepath.Join(t.TempDir(), "saved")
	step("restored", func() {
		xl(t, "save", g.Name(), saved)
		eventually(t, "the saved domain is gone", func() bool { return gone(t, g.Name()) })
		xl(t, "restore", saved)
		g.Reattach()
		declaredWorks(t, g, "/dev/hvc2")
	})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if out := xenchan(t, "apply"); !strings.Contains(out, "detached") {
		t.Errorf("apply says\n%s", out)
	}
	nodesGo(t, declaredName)
	if left := list(t, g.Name()); len(left) != 1 {
		t.Errorf("left: %+v", left)
	}
}

// The declared channels are there before the domain runs, and nothing is left of
// them when it is destroyed at whichever moment.
func TestDeclared_beforeTheGuestRuns(t *testing.T) {
	startDaemon(t).ready()
	declare(t, "TestDecl*", "a.toml", "connection=socket,name="+declaredName, "connection=pty,name=org.example.b.0", "connection=pty,name=org.example.c.0")
	xenchan(t, "apply")
	cfg := xlguest.WriteConfig(t, xlguest.Config{Name: "TestDeclared"})
	t.Cleanup(func() { xlguest.XL(context.Background(), "destroy", "TestDeclared") }) // of a run that failed
	for i := range 2 {
		xl(t, "create", "-q", "-p", cfg)
		t.Logf("when xl create -p has returned there are %d channels", len(look(t, "TestDeclared")))
		if i > 0 { // once as it comes, then when all are there, and it runs
			eventually(t, "the channels are there", func() bool { return len(look(t, "TestDeclared")) == 3 })
			unpause(t, "TestDeclared")
		}
		xl(t, "destroy", "TestDeclared")
		eventually(t, "no zombie", func() bool { return gone(t, "TestDeclared") })
	}
	nodesGo(t, "org.example")
}

// A domain that migrates has its declared channel on the host that it comes to,
// here the same one, and its programs find it by name. A PV guest cannot on Debian's
// Xen (EOPNOTSUPP).
func TestDeclared_migration(t *testing.T) {
	startDaemon(t).ready()
	declare(t, "TestDecl*", "a.toml", "connection=socket,name="+declaredName)
	xenchan(t, "apply")
	g := startHelper(t, xlguest.Config{PVH: true})
	g.setUp()
	g.mapping(declaredName)
	old := g.DomID()
	xl(t, "migrate", "-s", "", g.Name(), "xl migrate-receive")
	g.Reattach()
	if g.DomID() == old {
		t.Error("it is the same domain")
	}
	g.mapping(declaredName)
	if c := list(t, g.Name())[declaredName]; c.Origin != channel.OriginDeclared || c.DomID != uint16(g.DomID()) {
		t.Errorf("%+v", c)
	}
}

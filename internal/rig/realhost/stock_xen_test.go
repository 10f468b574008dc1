//go:build xen

package realhost

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// What xl destroys is gone: no zombie because of a page that we map, no node.
func TestDestroy_leavesNothing(t *testing.T) {
	startDaemon(t).ready()
	g := xlguest.Shared(t, xlguest.Config{}) // others start another
	backend, frontend := "/backend/console/"+g.DomID().String()+"/", "/local/domain/"+g.DomID().String()+"/"
	path := attach(t, g.Name(), "connection=socket,name=org.example.a.0")
	attach(t, g.Name(), "connection=pty,name=org.example.b.0")
	echoAgent(g, "/dev/hvc1")
	c := client(t, path)
	echo(t, c, 4096)
	g.Destroy()
	eventually(t, "no zombie", func() bool { return gone(t, g.Name()) })
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the client read %d bytes, %v", n, err)
	}
	nodesGo(t, backend, frontend, "org.example")
}

// gone says that xl list shows neither the domain nor a zombie, which has no name.
func gone(t *testing.T, name string) bool {
	t.Helper()
	list := xl(t, "list")
	return !strings.Contains(list, name+" ") && !strings.Contains(list, "(null)")
}

// A domain is saved, restored and shut down by xl. Each time it goes with its
// channel, as no zombie and without a node left, and the restored one can have a
// new channel. (TestDeclared reboots one.)
func TestDomain_comesAndGoes(t *testing.T) {
	startDaemon(t).ready()
	g := xlguest.Start(t, xlguest.Config{})
	echoSoon(t, g)
	last := g.DomID()
	left := func(how string) {
		t.Helper()
		eventually(t, "the domain is gone after "+how, func() bool { return gone(t, g.Name()) })
		nodesGo(t, "/backend/console/"+last.String()+"/")
	}
	file := filepath.Join(t.TempDir(), "saved")
	xl(t, "save", g.Name(), file)
	left("saving")
	xl(t, "restore", file)
	g.Reattach()
	path := attach(t, g.Name(), "connection=socket,name=org.example.after.0")
	echoAgent(g, freeTTY(g))
	echo(t, client(t, path), 4096)
	last = g.DomID()
	xl(t, "shutdown", "-w", g.Name())
	left("a shutdown")
}

// Doctor says what is missing: a xenstored, and rights. (TestUnprivileged has it
// find all well, and TestDriverDomain unloads the kernel's modules.)
func TestDoctor_firstChecks(t *testing.T) {
	out, err := tryXenchan(t.Context(), "doctor", "--store", "/run/no-such-socket")
	if err == nil || !strings.Contains(out, "no-such-socket") || !strings.Contains(out, "check the path, and that xenstored runs") {
		t.Errorf("doctor without a xenstored: %v\n%s", err, out)
	}
	nobody := exec.Command("xenchan", "doctor")
	nobody.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	said, err := nobody.CombinedOutput()
	for _, want := range []string{"failed   host: open /dev/xen/evtchn: permission denied: try again as root, or as a user whose group has the device", "failed   host: xenstore"} {
		if nobody.ProcessState.ExitCode() != 1 || !strings.Contains(string(said), want) {
			t.Errorf("doctor without rights: %v\n%s", err, said)
		}
	}
}

// freeTTY is the terminal that the guest has for its only channel: after a
// restore the old one may still hold its place.
func freeTTY(g *xlguest.Guest) string {
	return strings.TrimSpace(g.Run(echoing + `
free() { for n in 1 2 3 4 5 6 7; do [ -c /dev/hvc$n ] && (: <>/dev/hvc$n) 2>/dev/null && return; done; false; }
for n in 1 2 3 4 5 6 7; do hush /dev/hvc$n; done` + xlguest.Until("free") + "echo /dev/hvc$n"))
}

// A domain whose stock channel has a QEMU: both serve their own, list says who
// serves which, and watch tells of both.
func TestStockChannel_besideOurs(t *testing.T) {
	startDaemon(t).ready()
	// xl 4.17 loses the first channel of a domain.
	g := xlguest.Start(t, xlguest.Config{Extra: `channel = [ "connection=pty,name=lost", "connection=socket,path=/run/stock.sock,name=org.example.stock.0" ]`})
	w := startWatch(t, g.Name())
	path := attach(t, g.Name(), "connection=socket,name=org.example.ours.0")
	w.untilKind(channel.EventAttach, "org.example.ours.0")
	echoAgent(g, "/dev/hvc1")
	echoAgent(g, "/dev/hvc2")
	c := client(t, path)
	echo(t, c, 64<<10)
	c.Close()
	for _, change := range []string{channel.ClientConnected, channel.ClientLeft} {
		w.until("a client "+change, func(e channel.Event) bool { return e.Change == change && e.PID != nil && int(*e.PID) == os.Getpid() })
	}
	stock := client(t, "/run/stock.sock") // QEMU serves one client at a time
	echo(t, stock, 64<<10)
	rows := connected(t, g.Name(), "org.example.stock.0", "org.example.ours.0")
	if s, o := rows["org.example.stock.0"], rows["org.example.ours.0"]; s.DevID != 1 || o.DevID != 2 || s.GuestToHost != nil || o.GuestToHost == nil {
		t.Errorf("stock %+v\nours %+v", s, o)
	}
	s, o := rows["org.example.stock.0"], rows["org.example.ours.0"]
	if s.Origin != channel.OriginXL || s.ServedBy != channel.ServerQEMU || s.QEMUPID == nil || o.Origin != channel.OriginAttached || o.ServedBy != channel.ServerDaemon || o.QEMUPID != nil {
		t.Errorf("who made and serves them: stock %+v\nours %+v", s, o)
	} else if exe, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", *s.QEMUPID)); err != nil || !strings.Contains(string(exe), "org.example.stock.0") && !strings.Contains(string(exe), "/run/stock.sock") {
		t.Errorf("process %d is not the QEMU of the channel: %q, %v", *s.QEMUPID, exe, err)
	}
	compareWithXL(t, g)
	if _, err := tryXenchan(t.Context(), "detach", g.Name(), "org.example.stock.0"); err == nil || !strings.Contains(err.Error(), "QEMU") {
		t.Errorf("detach of a stock channel: %v", err)
	}
	xenchan(t, "detach", g.Name(), "org.example.ours.0")
	w.untilKind(channel.EventDetach, "org.example.ours.0")
	echo(t, stock, 4096)

	// What a guest says while nobody reads: each lost byte is told with its place.
	attach(t, g.Name(), "connection=socket,name=org.example.full.0,spool=4096")
	g.Run("head -c 10000 /dev/zero >/dev/hvc2")
	lost := channel.Loss{}
	w.until("10000 bytes in a spool of 4096 lose 5904", func(e channel.Event) bool {
		if e.Kind == channel.EventLoss && e.Name == "org.example.full.0" && e.Lost.From == lost.To {
			lost.Bytes += e.Lost.Bytes
			lost.To = e.Lost.To
		}
		return lost.Bytes == 5904 && lost.To == 5904
	})
	g.Destroy()
	w.untilKind(channel.EventDetach, "org.example.full.0")
}

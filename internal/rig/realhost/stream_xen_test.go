//go:build xen

package realhost

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// A stock guest that was started without any channel gets a socket and a pty
// channel while it runs, and echoes on both. TestDeviceModel moves more.
func TestHotplug_stream(t *testing.T) {
	for _, pvh := range []bool{false, true} {
		t.Run(map[bool]string{false: "pv", true: "pvh"}[pvh], func(t *testing.T) {
			startDaemon(t).ready()
			const size = 64 << 10
			var g *xlguest.Guest
			if pvh {
				g = xlguest.Start(t, xlguest.Config{PVH: true}) // no other test has a use for it
			} else {
				g = guest(t, xlguest.Config{})
			}
			socket := attach(t, g.Name(), "connection=socket,name=org.example.a.0")
			pty := attach(t, g.Name(), "connection=pty,name=org.example.b.0")
			echoAgent(g, "/dev/hvc1")
			echoAgent(g, "/dev/hvc2")
			for name, path := range map[string]string{"socket": socket, "pty": pty} {
				took := echo(t, client(t, path), size)
				t.Logf("%s: %d bytes each way in %v, the same came back", name, size, took.Round(time.Millisecond))
			}
			compareWithXL(t, g)
			for name, c := range connected(t, g.Name(), "org.example.a.0", "org.example.b.0") {
				if *c.Dropped != 0 || *c.GuestToHost < uint64(size) || *c.HostToGuest < uint64(size) {
					t.Errorf("%s: %+v", name, c)
				}
			}
		})
	}
}

// compareWithXL holds our --xl against what it imitates, at a moment when nothing changes.
func compareWithXL(t *testing.T, g *xlguest.Guest) {
	t.Helper()
	var theirs, ours string
	eventually(t, "xl shows the same twice", func() bool {
		theirs, ours = xl(t, "channel-list", g.Name()), xenchan(t, "list", g.Name(), "--xl")
		return theirs == ours || theirs == xl(t, "channel-list", g.Name())
	})
	t.Logf("xl channel-list:\n%s", theirs)
	if theirs != ours {
		t.Errorf("xl channel-list says\n%s\nand xenchan list --xl\n%s", theirs, ours)
	}
}

// xl console finds the terminal of a pty channel.
func TestXLConsole_opensOurTerminal(t *testing.T) {
	startDaemon(t).ready()
	g := guest(t, xlguest.Config{})
	attach(t, g.Name(), "connection=pty,name=org.example.tty.0")
	echoAgent(g, "/dev/hvc1")
	if s := xlConsole(t, g, 1, "hello"); !strings.Contains(s, "hello") {
		t.Errorf("xl console showed %q", s)
	}
}

// xlConsole says something at a channel's terminal as xl console opens it, and returns
// what is shown up to its echo.
func xlConsole(t *testing.T, g *xlguest.Guest, devid int, text string) (shown string) {
	t.Helper()
	// xl console reads its input only when that is a terminal: socat gives it one.
	xlConsole := fmt.Sprintf("EXEC:'xl console -t pv -n %d %s',pty,setsid,ctty,raw,echo=0", devid, g.Name())
	cmd := exec.CommandContext(t.Context(), "socat", "-", xlConsole)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	got := make(chan string, 1)
	go func() {
		var all []byte
		for buf := make([]byte, 100); !strings.Contains(string(all), text); {
			n, err := out.Read(buf)
			if all = append(all, buf[:n]...); err != nil {
				break
			}
		}
		got <- string(all)
	}()
	fmt.Fprint(in, text+"\n")
	select {
	case shown = <-got:
	case <-time.After(xlguest.Patience):
		t.Errorf("xl console shows nothing, and says %s", stderr.String())
	}
	return shown
}

// Attach, use, detach, again and again; another channel goes on meanwhile.
func TestAttachDetach_25times(t *testing.T) {
	startDaemon(t).ready()
	g := guest(t, xlguest.Config{})
	steady := client(t, attach(t, g.Name(), "connection=socket,name=org.example.steady.0"))
	echoAgent(g, "/dev/hvc1")
	before := xenstoreLS(t)
	for i := range 25 {
		path := attach(t, g.Name(), "connection=socket,name=org.example.again.0")
		echoAgent(g, "/dev/hvc2")
		c := client(t, path)
		echo(t, c, 4096)
		xenchan(t, "detach", g.Name(), "org.example.again.0")
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Fatalf("round %d: the client of a detached channel read %d bytes, %v", i, n, err)
		}
		echo(t, steady, 256)
	}
	eventually(t, "xenstore is as it was before", func() bool { return xenstoreLS(t) == before })
	g.Await("(: <>/dev/hvc2) 2>&1 | grep -q 'No such device'")
}

// A guest that does not answer holds up nobody: here one that is paused.
func TestAttachDetach_pausedGuest(t *testing.T) {
	startDaemon(t).ready()
	g := guest(t, xlguest.Config{})
	xl(t, "pause", g.Name())
	_, err := tryXenchan(t.Context(), "attach", g.Name(), "connection=socket,name=org.example.a.0", "--wait", "--timeout", "2s")
	if err == nil || !strings.Contains(err.Error(), "exit status 4") {
		t.Errorf("attach --wait to a paused guest: %v, want exit status 4", err)
	}
	xenchan(t, "detach", g.Name(), "org.example.a.0", "--timeout", "2s")
	nodesGo(t, "org.example.a.0")
	xl(t, "unpause", g.Name())
	echoSoon(t, g)
}

// echoSoon plugs a channel in and uses it.
func echoSoon(t *testing.T, g *xlguest.Guest) {
	t.Helper()
	path := attach(t, g.Name(), "connection=socket,name=org.example.soon.0")
	echoAgent(g, "/dev/hvc1")
	echo(t, client(t, path), 4096)
}

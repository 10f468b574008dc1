//go:build xen

package realhost

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// installDeviceModel is where xl finds the device model.
func installDeviceModel(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("xenchan-dm")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// stockConfig is a guest with channels as a user of xl has them. Xl of 4.17 loses
// the first one of every domain.
func stockConfig(dm string, sockets string) string {
	override := ""
	if dm != "" {
		override = fmt.Sprintf("device_model_override = %q\n", dm)
	}
	return override + fmt.Sprintf(`channel = [ "connection=pty,name=org.example.first.0",
  "connection=socket,path=%s/stock.sock,name=org.example.socket.0", "connection=pty,name=org.example.pty.0" ]`, sockets)
}

var stockNames = []string{"org.example.first.0", "org.example.pty.0", "org.example.socket.0"}

// Stock xl and a configuration with one more line: everything is as with QEMU,
// but there is none, and no channel is lost. What xl prints is compared.
func TestDeviceModel(t *testing.T) {
	h := startDaemon(t)
	h.ready()
	run(t, "xenstore-write", "/local/domain/0/device-model", "") // libxl leaves it behind
	before := xenstoreLS(t)
	dir := t.TempDir()
	const mebi = 1 << 20
	size := mebi
	ours := stockScript(t, xlguest.Config{Name: "standin", Extra: stockConfig(installDeviceModel(t), dir)}, func(g *xlguest.Guest, when string) {
		checkStandIn(t, g, dir, when, size)
		if size == mebi {
			if theirs := xl(t, "channel-list", g.Name()); theirs != xenchan(t, "list", g.Name(), "--xl") {
				t.Errorf("xl channel-list says\n%s", theirs)
			}
			// The daemon is killed, and the guest does not notice.
			h.stop(syscall.SIGKILL)
			h.start()
			echo(t, clientSoon(t, filepath.Join(dir, "stock.sock")), 16<<10)
		}
		size = 16 << 10
	})
	nothingLeft(t, "standin", before)
	// Xl has sent it a SIGHUP, and does not wait for what comes of it.
	eventually(t, "no xenchan-dm is left", func() bool {
		return exec.Command("pidof", "xenchan-dm").Run() != nil
	})

	kept := stockNames[1:] // xl loses the first one, and QEMU cannot bring it back
	theirs := stockScript(t, xlguest.Config{Name: "qemu", Extra: stockConfig("", dir)}, func(g *xlguest.Guest, _ string) {
		connected(t, g.Name(), kept...)
		echoEverywhere(g, len(kept))
	})
	for i, their := range theirs {
		our := ours[i]
		if their.what == "channel-list" && len(our.said) == len(their.said)+1 {
			our.said = our.said[:len(their.said)] // and the lost one
		}
		if !slices.Equal(our.said, their.said) {
			t.Errorf("xl %s %s, with the stand-in\n%q\nand with QEMU\n%q", their.what, their.when, our.said, their.said)
		}
	}

	// Without channels libxl wants neither.
	for _, dm := range []string{"", fmt.Sprintf("device_model_override = %q\n", installDeviceModel(t))} {
		g := xlguest.Create(t, xlguest.Config{Name: "none", Extra: dm}, "-p")
		if list := xl(t, "channel-list", g.Name()); strings.Count(list, "\n") != 1 {
			t.Errorf("with %q and no channel:\n%s", dm, list)
		}
		if out, err := exec.Command("xenstore-read", "/local/domain/"+g.DomID().String()+"/image/device-model-pid").Output(); err == nil {
			t.Errorf("with %q and no channel the domain has a device model, %s", dm, out)
		}
		g.Destroy()
	}
}

// step is what xl has printed.
type step struct {
	what, when string
	said       []string // lines, without what differs from run to run
}

// stockScript is the life of a guest with channels as xl's users know it. check sees to
// it that the channels can be used and the guest answers on all of them.
func stockScript(t *testing.T, c xlguest.Config, check func(g *xlguest.Guest, when string)) (steps []step) {
	t.Helper()
	var g *xlguest.Guest
	note := func(when string, what string, said string) {
		steps = append(steps, step{what, when, withoutNumbers(strings.ReplaceAll(said, c.Name, "NAME"))})
	}
	look := func(when string) {
		t.Helper()
		check(g, when)
		note(when, "channel-list", xl(t, "channel-list", g.Name()))
	}
	g = xlguest.Start(t, c)
	look("as created")
	note("as created", "console -n 2", xlConsole(t, g, 2, "hello"))
	g.Reboot()
	look("after a reboot")
	file := filepath.Join(t.TempDir(), "saved")
	note("running", "save", xl(t, "save", g.Name(), file))
	note("saved", "restore", xl(t, "restore", file))
	g.Reattach()
	look("restored")
	note("restored", "destroy", xl(t, "destroy", g.Name()))
	eventually(t, "the domain is gone", func() bool { return gone(t, g.Name()) })
	return steps
}

// checkStandIn looks at all three channels, and moves bytes over two of them.
func checkStandIn(t *testing.T, g *xlguest.Guest, dir, when string, size int) {
	t.Helper()
	rows := connected(t, g.Name(), stockNames...)
	if n := qemus(t); n > 0 {
		t.Errorf("%s: %d QEMU processes run", when, n)
	}
	echoEverywhere(g, len(stockNames))
	for kind, path := range map[string]string{"socket": filepath.Join(dir, "stock.sock"), "pty": rows["org.example.pty.0"].TTY} {
		c := client(t, path)
		took := echo(t, c, size)
		t.Logf("%s: %s, %d bytes each way in %v", when, kind, size, took.Round(time.Millisecond))
		c.Close() // two programs at a terminal would share what it says
	}
}

// echoEverywhere sends back what comes on any terminal, once there are so many:
// which channel has which of them depends on when the guest saw the one that was lost.
func echoEverywhere(g *xlguest.Guest, channels int) {
	g.Run(echoing + fmt.Sprintf(`
there() { n=0; for t in 1 2 3 4 5 6 7; do (: <>/dev/hvc$t) 2>/dev/null && n=$((n+1)); done; [ $n -ge %d ]; }
for t in 1 2 3 4 5 6 7; do hush /dev/hvc$t; done
rm -f /tmp/up-*`, channels) + xlguest.Until("there") + `
for t in 1 2 3 4 5 6 7; do (: <>/dev/hvc$t) 2>/dev/null && answer /dev/hvc$t; done` +
		xlguest.Until(fmt.Sprintf("[ $(ls /tmp | grep -c up-) -ge %d ]", channels)))
}

// Without a daemon it serves the domain alone, and goes on where it was killed.
func TestDeviceModel_alone(t *testing.T) {
	dir := t.TempDir()
	g := xlguest.Start(t, xlguest.Config{Name: "alone", Extra: stockConfig(installDeviceModel(t), dir)})
	connected(t, g.Name(), stockNames...)
	echoEverywhere(g, len(stockNames))
	c := client(t, filepath.Join(dir, "stock.sock"))
	echo(t, c, 16<<10)
	c.Close()

	var pid string
	eventually(t, "one xenchan-dm runs", func() bool { // that of an earlier domain has ended
		pids := strings.Fields(run(t, "pidof", "xenchan-dm"))
		pid = pids[0]
		return len(pids) == 1
	})
	line, err := os.ReadFile("/proc/" + pid + "/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("alone it has %s", strings.TrimSpace(run(t, "grep", "RssAnon", "/proc/"+pid+"/status")))
	run(t, "kill", "-KILL", pid)
	eventually(t, "it has closed its socket", func() bool { // else the next client may still be its own
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
	args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	again := exec.Command(args[0], args[1:]...)
	var log strings.Builder
	again.Stderr = &log
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- again.Wait() }()
	echo(t, clientSoon(t, filepath.Join(dir, "stock.sock")), 16<<10)
	connected(t, g.Name(), stockNames...)
	xl(t, "destroy", g.Name())
	select { // libxl hangs up on the one it knows, which is not this one: it sees the domain go
	case err := <-ended:
		if err != nil {
			t.Errorf("%v\n%s", err, log.String())
		}
	case <-time.After(xlguest.Patience):
		t.Error("the device model outlives its domain")
	}
}

// clientSoon is client for a socket that a process is about to open.
func clientSoon(t *testing.T, path string) net.Conn {
	t.Helper()
	var c net.Conn
	eventually(t, "somebody listens at "+path, func() (ok bool) {
		var err error
		c, err = net.Dial("unix", path)
		return err == nil
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// withoutNumbers are the lines of xl channel-list without what the guest and the
// kernel number as they like: event channel, grant reference, terminal.
func withoutNumbers(list string) []string {
	var lines []string
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) >= 6 && f[0] != "Idx" {
			f[3], f[4] = "N", "N"
			if len(f) > 6 {
				f[6] = filepath.Dir(f[6])
			}
		}
		lines = append(lines, strings.Join(f, " "))
	}
	return lines
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).Output()
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return string(out)
}

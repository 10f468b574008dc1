//go:build xen

package realhost

import (
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// user is what sysusers makes of the daemon's user and group; any number does.
const user = 971

// startUnprivileged starts the daemon as the unit in packaging/ does: as a user
// without a capability, whose group has three devices from udev and whose run
// directory systemd has made. It talks to xenstore through the device.
func startUnprivileged(t *testing.T) *host {
	t.Helper()
	for _, device := range []string{"/dev/xen/evtchn", "/dev/xen/gntdev", "/dev/xen/xenbus"} {
		was, err := os.Stat(device)
		if err != nil {
			t.Fatal(err)
		}
		set := func(gid int, mode os.FileMode) {
			if err := os.Chown(device, 0, gid); err != nil {
				t.Error(err)
			}
			if err := os.Chmod(device, mode); err != nil {
				t.Error(err)
			}
		}
		t.Cleanup(func() { set(int(was.Sys().(*syscall.Stat_t).Gid), was.Mode().Perm()) })
		set(user, 0o660)
	}
	os.RemoveAll(runDir) // an earlier daemon's, which was root
	if err := os.Mkdir(runDir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(runDir) })
	if err := os.Chown(runDir, user, user); err != nil {
		t.Fatal(err)
	}
	return (&host{t: t, as: &syscall.Credential{Uid: user, Gid: user}}).run()
}

// A daemon without rights, behind its own fences, does all that one of root's does,
// also after a kill; doctor finds real Xen well, and a paused guest not looking.
func TestUnprivileged(t *testing.T) {
	h := startUnprivileged(t)
	h.ready()
	g := xlguest.Shared(t, xlguest.Config{})
	path := attach(t, g.Name(), "connection=socket,name=org.example.a.0,allow=root")
	tty := attach(t, g.Name(), "connection=pty,name=org.example.t.0")
	echoAgent(g, "/dev/hvc1")
	echo(t, client(t, path), 16<<10)
	echoAgent(g, "/dev/hvc2")
	echo(t, client(t, tty), 4<<10)
	h.stop(syscall.SIGKILL)
	h.start()
	h.ready()
	eventually(t, "the socket is served again", func() bool {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	echo(t, client(t, path), 16<<10)

	out := xenchan(t, "doctor", g.Name())
	t.Logf("xenchan doctor:\n%s", out)
	for _, want := range []string{"the daemon is confined: landlock version 2, ", "clients can connect to " + path} {
		if !strings.Contains(out, want) || strings.Contains(out, "as root") {
			t.Errorf("doctor does not say %q", want)
		}
	}
	xl(t, "pause", g.Name())
	xenchan(t, "attach", g.Name(), "connection=socket,name=org.example.b.0")
	out, err := tryXenchan(t.Context(), "doctor", g.Name(), "org.example.b.0")
	if err == nil || !strings.Contains(out, "the guest has not looked at the device") {
		t.Errorf("doctor says %v\n%s", err, out)
	}
	xl(t, "unpause", g.Name())
	status, err := os.ReadFile("/proc/" + strconv.Itoa(h.cmd.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t971\t971\t971\t971\n", "CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("/proc/PID/status has no %q:\n%s", want, status)
		}
	}
	g.Destroy()
	eventually(t, "no zombie", func() bool { return gone(t, g.Name()) })
}

//go:build xen

package realhost

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/rig/xlguest"
	"github.com/xenchan/xenchan/packaging"
)

// installed is what `make install-guest PREFIX=/usr` puts into a guest.
func installed(t *testing.T) map[string]string {
	t.Helper()
	program, err := exec.LookPath("xenchan-guest")
	if err != nil {
		t.Fatalf("this test needs xenchan-guest: rigctl test -with bin/xenchan-guest (%v)", err)
	}
	files := map[string]string{"/usr/bin/xenchan-guest": program}
	dir := t.TempDir()
	for from, to := range map[string]string{
		"xenchan-guest.rules":     "/usr/lib/udev/rules.d/60-xenchan-guest.rules",
		"xenchan-guest.service":   "/usr/lib/systemd/system/xenchan-guest.service",
		"xenchan-qemu-ga.service": "/usr/lib/systemd/system/xenchan-qemu-ga.service",
	} {
		data, err := packaging.Guest.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		files[to] = filepath.Join(dir, from)
		if err := os.WriteFile(files[to], data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// links waits until exactly these channels have links below each of the three names.
func (h helper) links(names ...string) {
	h.t.Helper()
	want := strings.Join(names, " ")
	out := h.Run(`linked() { for d in xen-channel xen-channels xenchannel; do [ "$(ls /dev/$d 2>/dev/null | xargs)" = "` + want + `" ] || return 1; done; }
(` + xlguest.Until("linked") + `) || { ls -l /dev/xen*/; udevadm info --export-db | grep -A9 console-; cat /run/xenchan-guest/terminals; }`)
	if out != "" {
		h.t.Fatalf("the links are not %q:\n%s", want, out)
	}
}

// said proves where names lead in a guest where nobody holds the terminals.
func (h helper) said(names ...string) {
	h.t.Helper()
	rows := h.has(names...)
	for _, n := range names {
		h.Run("echo from " + n + " | xenchan-guest open " + n + " --linger 0")
		c := client(h.t, rows[n].Path)
		line := make([]byte, len("from ")+len(n)+1)
		if _, err := io.ReadFull(c, line); string(line) != "from "+n+"\n" {
			h.t.Errorf("the host reads %q of %s, %v", line, n, err)
		}
		c.Close()
	}
}

// Where udev runs without systemd, it makes and removes the links by itself.
func TestGuest_udevAlone(t *testing.T) {
	startDaemon(t).ready()
	h := helper{xlguest.Start(t, xlguest.Config{Systemd: true, MemoryMiB: 192, Files: installed(t), Kernel: "rig_init=none"}), t}
	path := attach(t, h.Name(), "connection=socket,name=early")
	h.Run("/usr/lib/systemd/systemd-udevd --daemon && udevadm trigger && udevadm settle")
	h.links("early")
	attach(t, h.Name(), "connection=socket,name=late")
	h.links("early", "late")
	h.said("early", "late")
	if out := h.Run("udevadm info -q property /dev/hvc1"); !strings.Contains(out, "ID_MM_DEVICE_IGNORE=1") {
		t.Errorf("ModemManager is not kept away from /dev/hvc1:\n%s", out)
	}
	xenchan(t, "detach", h.Name(), "early")
	h.links("late")
	attach(t, h.Name(), "connection=socket,name=early,path="+path)
	h.links("early", "late")
	h.said("early", "late")
}

const spiceName = "com.redhat.spice.0"

// startSpice starts the daemon half of SPICE's agent. It opens its channel when a session
// has said how large its screen is; the guest has no display for the other half, so that
// a stand-in for it says so and keeps what the daemon has for it.
func (h helper) startSpice() {
	h.Run("xenchan-guest run " + spiceName + ` -- spice-vdagentd -x -X -f -u /dev/null -s {} -S /run/vdagent >/tmp/vdagentd.log 2>&1 </dev/null &
for i in $(seq 1000); do [ -e /run/vdagent ] && break; usleep 20000; done
words() { for w; do printf "\\x$(printf %02x $((w & 255)))\\x$(printf %02x $((w >> 8)))\\0\\0"; done; }
{ words 0 1280 1024 20 1280 1024 0 0 0; sleep 100000; } | socat - UNIX-CONNECT:/run/vdagent >/tmp/session 2>/tmp/socat.log &`)
}

// spice asks SPICE's agent: it gives the session a monitor of this size, and can share a
// clipboard.
func (h helper) spice(width, height int) {
	h.t.Helper()
	xenchan(h.t, "agent", "--timeout", "3m", h.Name(), "resolution", fmt.Sprintf("%dx%d", width, height))
	want := fmt.Sprintf("%02x%02x0000%02x%02x0000", height&255, height>>8, width&255, width>>8)
	h.Run("for i in $(seq 1000); do xxd -p /tmp/session | tr -d '\n' | grep -q " + want + " && exit; usleep 20000; done; xxd /tmp/session; cat /tmp/vdagentd.log /tmp/socat.log; exit 1")
	xenchan(h.t, "agent", "--timeout", "3m", h.Name(), "clipboard", "set", "--for", "100ms")
}

// A guest with systemd and udev: the first channel starts xenchan-guest.service, and
// the agent's unit has its agent through all that comes; nobody else has the terminals.
// It is PVH: as PV its kernel failed after some of the restores, see docs/real-xen.md.
func TestGuest_systemd(t *testing.T) {
	startDaemon(t).ready()
	began := time.Now()
	h := helper{xlguest.Start(t, xlguest.Config{PVH: true, Systemd: true, MemoryMiB: 192, Files: installed(t)}), t}
	t.Logf("a guest with systemd starts in %v", time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), xlguest.Patience)
			defer cancel()
			h.Exec(ctx, "systemctl status; systemctl status xenchan-guest xenchan-qemu-ga; ls -l /dev/xen*/")
		}
	})
	active := func() string { return strings.TrimSpace(h.Run("systemctl is-active xenchan-guest || true")) }
	if got := active(); got != "inactive" {
		t.Errorf("without a channel xenchan-guest.service is %s", got)
	}
	attach(t, h.Name(), "connection=socket,name=a")
	h.links("a")
	eventually(t, "with a channel xenchan-guest.service is active", func() bool { return active() == "active" })
	attach(t, h.Name(), "connection=socket,name="+agentName)
	h.links("a", agentName)
	h.Run("mkdir -p /var/log; systemctl enable --now xenchan-qemu-ga")
	h.ping("as a service")
	h.mapping("a")
	seen := func(when string) {
		t.Helper()
		eventually(t, "the host sees who is there "+when, func() bool {
			rows := look(t, h.Name())
			return rows[agentName].Guest == channel.GuestOpen && rows["a"].Guest == channel.GuestClosed
		})
	}
	seen("at first")
	if out := h.Run("mkdir /tmp/g; /usr/lib/systemd/system-generators/systemd-getty-generator /tmp/g /tmp/g /tmp/g; ls /tmp/g/getty.target.wants | xargs"); out != "serial-getty@hvc0.service\n" {
		t.Errorf("there would be a getty for %s", out)
	}
	attach(t, h.Name(), "connection=socket,name="+spiceName)
	h.startSpice()
	h.spice(1024, 768)
	xenchan(t, "detach", h.Name(), "a")
	h.links(spiceName, agentName)

	h.restore()
	h.links()
	attach(t, h.Name(), "connection=socket,name=b")
	attach(t, h.Name(), "connection=socket,name="+agentName)
	attach(t, h.Name(), "connection=socket,name=a")
	attach(t, h.Name(), "connection=socket,name="+spiceName)
	h.links("a", "b", spiceName, agentName)
	h.ping("after the guest was restored")
	h.spice(800, 600)
	h.mapping("a", "b")
	seen("after a restore")
}

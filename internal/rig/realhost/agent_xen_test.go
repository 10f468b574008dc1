//go:build xen

package realhost

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

const agentName = "org.qemu.guest_agent.0"

// copied is how much is copied into the guest and out of it: the agent's base64 and
// the guest's terminal are slow under emulation.
const copied = 192 << 10

// The real guest agent in a stock guest does what xenchan asks of it, again after
// its channel was taken away and plugged in again, up to the end of its guest.
func TestAgent_qemuGA(t *testing.T) {
	startDaemon(t).ready()
	g := xlguest.Start(t, xlguest.Config{Agent: true})
	attach(t, g.Name(), "connection=socket,name="+agentName)
	startAgent(g)
	agent := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(xenchan(t, append([]string{"agent", g.Name()}, args...)...))
	}
	t.Logf("ping: %s", agent("ping", "--timeout", "1m"))
	if kernel := strings.TrimSpace(g.Run("uname -r")); !strings.Contains(agent("os"), kernel) {
		t.Errorf("os: %s, the kernel is %s", agent("os"), kernel)
	}
	if out := agent("exec", "--", "sh", "-c", "echo from $(hostname); exit 0"); !strings.HasPrefix(out, "from ") {
		t.Errorf("exec: %q", out)
	}
	if _, err := tryXenchan(t.Context(), "agent", g.Name(), "exec", "sh", "-c", "exit 7"); exitStatus(err) != 7 {
		t.Errorf("exit status 7: %v", err)
	}

	dir := t.TempDir()
	want := make([]byte, copied)
	rand.Read(want)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, want, 0o644); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	agent("cp", file, ":/tmp/file")
	in := time.Since(begin)
	sum := sha256.Sum256(want)
	if got := g.Run("sha256sum /tmp/file"); !strings.Contains(got, hex.EncodeToString(sum[:])) {
		t.Errorf("another file arrived: %s", got)
	}
	begin = time.Now()
	agent("cp", ":/tmp/file", file+".back")
	t.Logf("cp: %d bytes in %v into the guest, %v out of it", copied, in.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	if got, err := os.ReadFile(file + ".back"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back of %d, or others: %v", len(got), len(want), err)
	}
	g.Run("mkdir -p /mnt/x; mount -t tmpfs x /mnt/x")
	t.Logf("freeze: %s, thaw: %s", agent("freeze"), agent("thaw"))

	xenchan(t, "detach", g.Name(), agentName)
	g.Run("killall qemu-ga") // it is deaf after the hang-up
	attach(t, g.Name(), "connection=socket,name="+agentName)
	startAgent(g)
	agent("ping", "--timeout", "1m")

	// A clean end, from inside, and xenchan waits until it has come true.
	g.Run("printf '#!/bin/sh\\nexec busybox poweroff -f\\n' >/sbin/shutdown; chmod +x /sbin/shutdown")
	agent("shutdown")
	if out, err := xlguest.XL(t.Context(), "domid", g.Name()); err == nil {
		t.Errorf("the domain is still there: %s", out)
	}
}

// startAgent starts qemu-ga in the guest, on its one channel.
func startAgent(g *xlguest.Guest) {
	g.Run("mkdir -p /var/run /var/log; for i in $(seq 50); do (: <>/dev/hvc1) 2>/dev/null && break; usleep 100000; done\n" +
		"qemu-ga -m isa-serial -p /dev/hvc1 >/dev/null 2>&1 </dev/null &")
}

//go:build xen

package realhost

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

const agentName = "org.qemu.guest_agent.0"

// copySize is how much is copied into the guest and out of it, in bytes: $XENCHAN_COPY,
// or what does not take too long under emulation.
func copySize(t *testing.T) int {
	t.Helper()
	text := os.Getenv("XENCHAN_COPY")
	if text == "" {
		return 256 << 10
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// agentGuest is a guest whose agent is asked.
type agentGuest struct{ helper }

func (g agentGuest) ask(args ...string) string {
	g.t.Helper()
	return strings.TrimSpace(xenchan(g.t, append([]string{"agent", "--timeout", "3m", g.Name()}, args...)...))
}

func (g agentGuest) refuses(status int, says string, args ...string) {
	g.t.Helper()
	_, err := tryXenchan(g.t.Context(), append([]string{"agent", "--timeout", "3m", g.Name()}, args...)...)
	if exitStatus(err) != status || !strings.Contains(err.Error(), says) {
		g.t.Errorf("agent %q: %v; want status %d, %q", args, err, status, says)
	}
}

// The real guest agent in a stock guest does what xenchan asks of it, again after its
// channel was taken away and plugged in again, after its guest was restored and after it
// was rebooted, up to its end.
func TestAgent_qemuGA(t *testing.T) {
	daemon := startDaemon(t)
	daemon.ready()
	declare(t, "TestAgent-qemuGA", "a.toml", "connection=socket,name="+agentName)
	xenchan(t, "apply")
	g := agentGuest{startHelper(t, xlguest.Config{Agent: true})}
	began := time.Now()
	step := func(what string) {
		t.Logf("%s: %v", what, time.Since(began).Round(100*time.Millisecond))
		began = time.Now()
	}
	g.setUp()
	g.startAgent()
	g.ping("at first")
	if kernel := strings.TrimSpace(g.Run("uname -r")); !strings.Contains(g.ask("os"), kernel) {
		t.Errorf("os: %s, the kernel is %s", g.ask("os"), kernel)
	}
	g.exec()
	g.refuses(7, "", "exec", "sh", "-c", "exit 7")
	g.Run("mkdir -p /mnt/x; mount -t tmpfs x /mnt/x")
	t.Logf("freeze: %s, thaw: %s", g.ask("freeze"), g.ask("thaw"))
	step("asked")
	file := g.copy(copySize(t))
	step("copied")

	g.Run("mkdir -p /mnt/full; mount -t tmpfs -o size=64k full /mnt/full")
	g.refuses(1, "No space left on device", "cp", file, ":/mnt/full/file")
	if got := g.ask("exec", "--", "sh", "-c", "wc -c </mnt/full/file; ls -l /proc/$PPID/fd | grep -c full; true"); !strings.HasPrefix(got, "65536\n0") {
		t.Errorf("of the file that did not fit there are %q bytes, and so many open files", got)
	}
	step("a full disk")
	g.firewall()
	step("behind a firewall")

	xenchan(t, "detach", g.Name(), agentName) // it is declared, and comes again
	g.ping("after its channel was unplugged")
	g.exec()
	step("unplugged")
	g.restore()
	g.ping("after its guest was restored")
	g.exec()
	g.copy(16 << 10)
	t.Logf("freeze: %s, thaw: %s", g.ask("freeze"), g.ask("thaw"))
	step("restored")
	g.reboots()
	step("rebooted")

	// A clean end, from inside, and xenchan waits until it has come true.
	g.Run("printf '#!/bin/sh\\nexec busybox poweroff -f\\n' >/sbin/shutdown; chmod +x /sbin/shutdown")
	g.ask("shutdown", "--within", "3m")
	if out, err := xlguest.XL(t.Context(), "domid", g.Name()); err == nil {
		t.Errorf("the domain is still there: %s", out)
	}
	step("shut down")

	daemon.stop(syscall.SIGTERM)
	for _, want := range []string{
		`msg="agent call" .* uid=0 .* command=guest-ping decision=allowed by=` + firewallFile + ":3\n",
		`msg="agent answer" .* uid=0 .* command=guest-ping result=ok `,
		`msg="agent call" .* uid=0 .* command=guest-exec decision=denied by=` + firewallFile + ":1\n",
	} {
		if !regexp.MustCompile(want).MatchString(daemon.log.String()) {
			t.Errorf("the audit log has no %s", want)
		}
	}
}

const firewallFile = "/etc/xenchan/firewall.d/agents.toml"

// firewall has rules for the agent for a while: one command may pass.
func (g agentGuest) firewall() {
	g.t.Helper()
	if err := os.MkdirAll(filepath.Dir(firewallFile), 0o755); err != nil {
		g.t.Fatal(err)
	}
	rules := fmt.Sprintf("[[agent]]\nmatch = %q\n[[agent.allow]]\nwho = \"root\"\ncommands = \"guest-ping\"\n", g.Name())
	if err := os.WriteFile(firewallFile, []byte(rules), 0o644); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { os.Remove(firewallFile) })
	xenchan(g.t, "firewall", "--apply")
	g.ping("behind a firewall")
	g.refuses(1, "guest-exec is not allowed for user root (0) by "+firewallFile+":1", "exec", "true")
	g.ask("ping")
	if err := os.Remove(firewallFile); err != nil {
		g.t.Fatal(err)
	}
	xenchan(g.t, "firewall", "--apply")
	g.ping("when the firewall is gone")
	g.exec()
}

func (g agentGuest) exec() {
	g.t.Helper()
	if out := g.ask("exec", "--", "sh", "-c", "echo from $(hostname); exit 0"); !strings.HasPrefix(out, "from ") {
		g.t.Errorf("exec: %q", out)
	}
}

// copy copies random bytes into the guest and out of it.
func (g agentGuest) copy(size int) (file string) {
	g.t.Helper()
	want := make([]byte, size)
	rand.Read(want)
	file = filepath.Join(g.t.TempDir(), "file")
	if err := os.WriteFile(file, want, 0o644); err != nil {
		g.t.Fatal(err)
	}
	cp := func(from, to string) time.Duration {
		g.t.Helper()
		begin := time.Now()
		ctx, cancel := context.WithTimeout(g.t.Context(), 20*time.Minute)
		defer cancel()
		if _, err := tryXenchan(ctx, "agent", "--timeout", "3m", g.Name(), "cp", from, to); err != nil {
			g.t.Fatal(err)
		}
		return time.Since(begin).Round(time.Millisecond)
	}
	in := cp(file, ":/tmp/file")
	sum := sha256.Sum256(want)
	if got := g.Run("sha256sum /tmp/file"); !strings.Contains(got, hex.EncodeToString(sum[:])) {
		g.t.Errorf("another file arrived: %s", got)
	}
	out := cp(":/tmp/file", file+".back")
	g.t.Logf("cp: %d bytes in %v into the guest, %v out of it", size, in, out)
	if got, err := os.ReadFile(file + ".back"); err != nil || !bytes.Equal(got, want) {
		g.t.Errorf("%d bytes came back of %d, or others: %v", len(got), len(want), err)
	}
	return file
}

// reboots has the guest rebooted while it carries out a command.
func (g agentGuest) reboots() {
	g.t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := tryXenchan(g.t.Context(), "agent", "--timeout", "3m", g.Name(), "exec", "--", "sleep", "1000")
		ended <- err
	}()
	g.Await("pidof sleep >/dev/null")
	g.Reboot()
	select {
	case err := <-ended:
		g.t.Logf("rebooted in the middle of a command: %v", err)
		if exitStatus(err) != 1 || !strings.Contains(err.Error(), "the channel of the guest agent has ended") {
			g.t.Errorf("a command in a guest that reboots: %v", err)
		}
	case <-time.After(xlguest.Patience):
		g.t.Error("a command in a guest that reboots does not end")
	}
	g.setUp()
	g.startAgent()
	g.ping("after its guest was rebooted")
}

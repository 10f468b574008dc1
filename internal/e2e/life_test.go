package e2e

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sim"
)

// Attach, use and detach by command, a hundred times, leaves nothing behind: not
// in the daemon, nor in the guest, the hypervisor and the store.
func TestHotplug_hundredTimes(t *testing.T) {
	h := start(t, sim.Domain{Name: "web", Channels: []channel.Spec{socket("stays")}})
	echo := h.inGuest("web", "stays")
	go io.Copy(struct{ io.Writer }{echo}, struct{ io.Reader }{echo})
	stays := h.onHost(h.channel("web", "stays"))
	round := func() {
		path := h.xenchan("attach", "web", "connection=socket,name=org.example.plug.0", "--wait")
		c := h.channel("web", "org.example.plug.0")
		if path != c.Path || c.DevID != 2 {
			t.Fatalf("attach says %q; the channel is %+v", path, c)
		}
		client := h.onHost(c)
		guest := h.inGuest("web", "org.example.plug.0")
		h.say(client, guest, "ping")
		h.say(guest, client, "pong")
		h.xenchan("detach", "web", "org.example.plug.0")
		if n, err := client.Read(make([]byte, 1)); n > 0 || err != io.EOF {
			t.Fatalf("after detach the client reads %d, %v", n, err)
		}
		client.Close()
		guest.Close()
	}
	for range 3 {
		round()
	}
	daemon, guest := h.pid("daemon"), h.pid("guest-web")
	nodes, domains := h.dump(), h.Domains()
	files := [3]int{h.descriptors(daemon), h.descriptors(guest), h.descriptors(os.Getpid())}
	goroutines := runtime.NumGoroutine()
	for i := range 100 {
		round()
		if i%20 == 0 {
			h.say(stays, stays, "still there?")
		}
	}
	h.eventually("event channels, grants and mappings are as before", func() bool { return cmp.Equal(domains, h.Domains()) })
	h.eventually("the daemon, the guest and the host have no more descriptors than before", func() bool {
		return h.descriptors(daemon) <= files[0] && h.descriptors(guest) <= files[1] && h.descriptors(os.Getpid()) <= files[2]
	})
	h.eventually("the host has no more goroutines than before", func() bool { return runtime.NumGoroutine() <= goroutines })
	if diff := cmp.Diff(nodes, h.dump()); diff != "" {
		t.Errorf("nodes (-before +after):\n%s", diff)
	}
	if h.pid("daemon") != daemon {
		t.Error("the daemon was restarted")
	}
	if left, _ := filepath.Glob(filepath.Join(sim.RunDir(h.dir), "web", "*")); len(left) != 1 {
		t.Errorf("sockets are left: %v", left)
	}
}

func TestGuest_killed(t *testing.T) {
	h := start(t,
		sim.Domain{Name: "victim", Channels: []channel.Spec{socket("a"), socket("b")}},
		sim.Domain{Name: "other", Channels: []channel.Spec{socket("a")}})
	victim, other := h.channel("victim", "a"), h.channel("other", "a")
	guest, client := h.inGuest("other", "a"), h.onHost(other)
	dying := h.onHost(victim)
	h.say(h.inGuest("victim", "a"), dying, "alive")
	h.say(guest, client, "before")
	h.check(syscall.Kill(h.pid("guest-victim"), syscall.SIGKILL))
	if rest, err := io.ReadAll(dying); len(rest) > 0 || err != nil {
		t.Errorf("the dead guest's client reads %q, %v", rest, err)
	}
	h.eventually("the domain is gone, and no zombie", func() bool {
		for _, d := range h.Domains() {
			if d.Name == "victim" {
				return false
			}
		}
		return true
	})
	h.eventually("its sockets are gone", func() bool { return !exists(victim.Path) })
	h.say(guest, client, "after")
	h.say(client, guest, "after")
	for _, line := range h.dump() {
		if strings.Contains(line, "victim") {
			t.Errorf("left behind: %s", line)
		}
	}
}

func TestGuest_destroyed(t *testing.T) {
	h := start(t, sim.Domain{Name: "web", Channels: []channel.Spec{socket("a")}})
	c := h.channel("web", "a")
	pid := h.pid("guest-web")
	client := h.onHost(c)
	h.say(h.inGuest("web", "a"), client, "alive")
	h.check(h.DestroyDomain(t.Context(), 1))
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the client reads %v", err)
	}
	h.eventually("the domain is gone", func() bool { return len(h.Domains()) == 1 })
	h.eventually("its process has ended", func() bool { return !runs(pid) })
}

// The daemon is killed in the middle of a transfer, several times; the host
// starts it again. The guest does not notice, and no byte is lost.
func TestDaemon_killed(t *testing.T) {
	h := start(t, sim.Domain{Name: "web", Channels: []channel.Spec{
		{Name: "a", Connection: channel.Socket, Spool: 64 << 20},
		{Name: "con", Connection: channel.PTY},
	}})
	c, con := h.channel("web", "a"), h.channel("web", "con")
	guest := h.inGuest("web", "a")
	back, front := h.history(c.Backend+"/state"), h.history(c.Frontend+"/state")
	conBack := h.history(con.Backend + "/state")
	want := make([]byte, 2<<20)
	rand.NewChaCha8([32]byte{7}).Read(want)
	written := make(chan error, 1)
	go func() {
		for p := want; ; p = p[4096:] {
			if len(p) == 0 {
				written <- nil
				return
			}
			if _, err := guest.Write(p[:4096]); err != nil {
				written <- err
				return
			}
		}
	}()
	pids := map[int]bool{}
	for i := range 5 {
		time.Sleep(time.Duration(20*i) * time.Millisecond)
		pid := h.pid("daemon")
		pids[pid] = true
		h.check(syscall.Kill(pid, syscall.SIGKILL))
		h.eventually("another daemon", func() bool {
			now := h.pid("daemon")
			return now != pid && runs(now)
		})
	}
	if len(pids) < 5 {
		t.Errorf("only %d daemons were killed", len(pids))
	}
	h.check(<-written)
	h.eventually("all bytes are taken", func() bool { return h.row(c).GuestToHost == uint64(len(want)) })
	client := h.onHost(c)
	got := make([]byte, len(want))
	if n, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes came, equal: %v, %v", n, len(want), bytes.Equal(got, want), err)
	}
	h.say(client, guest, "well")
	h.say(guest, client, "well")
	for _, s := range append(append(back(), front()...), conBack()...) {
		if s != "4" {
			t.Errorf("a state went through %q", s)
		}
	}
	// A terminal is another one after a restart, and published.
	h.eventually("the terminal is published", func() bool {
		tty := h.channel("web", "con").TTY
		return tty != "" && exists(tty)
	})
	h.say(h.inGuest("web", "con"), h.open(h.channel("web", "con").TTY), "well")
}

// A host that is killed takes its daemon and guests with it.
func TestHost_killed(t *testing.T) {
	dir := t.TempDir()
	cfg := filepath.Join(dir, "web.cfg")
	if err := os.WriteFile(cfg, []byte(`name = "web"
channel = [ "connection=socket,name=a" ]
`), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: filepath.Join(dir, "host")}
	cmd := exec.Command(xenchan(t), "sim", h.dir, cfg)
	cmd.Env = append(os.Environ(), "XENCHAN_HOST=")
	out, err := cmd.StdoutPipe()
	h.check(err)
	h.check(cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" || err != nil {
		t.Fatalf("sim says %q, %v", line, err)
	}
	pids := []int{h.pid("daemon"), h.pid("guest-web")}
	for _, pid := range pids {
		if !runs(pid) {
			t.Fatalf("process %d does not run", pid)
		}
	}
	h.check(cmd.Process.Kill())
	cmd.Wait()
	for _, pid := range pids {
		h.eventually("it ends", func() bool { return !runs(pid) })
	}
}

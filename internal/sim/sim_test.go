package sim_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/cli"
	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/xen/xensim"
)

func TestMain(m *testing.M) {
	// The race detector would have every process sleep for a second at its end.
	os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0"))
	if filepath.Base(os.Args[0]) == "xenchan" {
		os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// xenchan is the test binary under the name that makes it xenchan.
func xenchan(t *testing.T) []string {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	path := filepath.Join(t.TempDir(), "xenchan")
	if os.Link(self, path) != nil { // on another file system
		binary, err := os.ReadFile(self)
		check(t, err)
		check(t, os.WriteFile(path, binary, 0o700))
	}
	return []string{path}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, cfg sim.Config) *sim.Host {
	t.Helper()
	h, err := sim.Start(t.Context(), cfg)
	check(t, err)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func ready(t *testing.T, h *sim.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	check(t, h.Ready(ctx))
}

func pid(t *testing.T, dir, name string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name+".pid"))
	check(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	check(t, err)
	return n
}

func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

var web = sim.Domain{Name: "web", Channels: []channel.Spec{
	{Name: "a", Connection: channel.Socket}, {Name: "con", Connection: channel.PTY},
}}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestHost_readyAndClose(t *testing.T) {
	dir := t.TempDir()
	h := start(t, sim.Config{Dir: dir, Domains: []sim.Domain{web}, Daemon: true, Command: xenchan(t)})
	ready(t, h)
	if len(h.Domains()) != 2 {
		t.Errorf("%+v", h.Domains())
	}
	sock := filepath.Join(sim.RunDir(dir), "web", "a.sock")
	for _, path := range []string{sock, filepath.Join(sim.GuestDir(dir, "web"), "a"), filepath.Join(sim.GuestDir(dir, "web"), "con")} {
		if !exists(path) {
			t.Errorf("ready, but there is no %s", path)
		}
	}
	pids := []int{pid(t, dir, "daemon"), pid(t, dir, "guest-web")}
	for _, p := range pids {
		if !runs(p) {
			t.Errorf("process %d does not run", p)
		}
	}
	check(t, h.Close())
	for _, p := range pids {
		if runs(p) {
			t.Errorf("process %d still runs", p)
		}
	}
	if exists(sock) || exists(filepath.Join(dir, "xenstored.sock")) {
		t.Error("sockets are left")
	}
}

func TestHost_withoutDaemon(t *testing.T) {
	dir := t.TempDir()
	h := start(t, sim.Config{Dir: dir, Domains: []sim.Domain{web}, Command: xenchan(t)})
	ready(t, h)
	if exists(filepath.Join(dir, "daemon.pid")) || exists(filepath.Join(sim.RunDir(dir), "web", "a.sock")) {
		t.Error("there is a daemon")
	}
}

func TestHost_startsTheDaemonAgain(t *testing.T) {
	dir := t.TempDir()
	h := start(t, sim.Config{Dir: dir, Domains: []sim.Domain{web}, Daemon: true, Command: xenchan(t)})
	ready(t, h)
	for range 3 {
		old := pid(t, dir, "daemon")
		check(t, syscall.Kill(old, syscall.SIGKILL))
		eventually(t, "another daemon", func() bool {
			now := pid(t, dir, "daemon") // never half a number
			return now != old && runs(now)
		})
		ready(t, h)
	}
}

func TestHost_guestDies(t *testing.T) {
	dir := t.TempDir()
	h := start(t, sim.Config{Dir: dir, Domains: []sim.Domain{web, {Name: "other"}}, Daemon: true, Command: xenchan(t)})
	ready(t, h)
	check(t, syscall.Kill(pid(t, dir, "guest-web"), syscall.SIGKILL))
	eventually(t, "the domain is gone", func() bool { return len(h.Domains()) == 2 })
	eventually(t, "nothing is left of it", func() bool {
		return !exists(filepath.Join(dir, "guest-web.pid")) && !exists(filepath.Join(dir, "guests", "web"))
	})
	other := pid(t, dir, "guest-other")
	check(t, h.DestroyDomain(t.Context(), 2))
	if runs(other) || exists(filepath.Join(dir, "guest-other.pid")) || exists(filepath.Join(dir, "guests", "other")) {
		t.Error("something is left of a domain that was destroyed")
	}
}

// A host that cannot start as asked leaves nothing behind, and its directory can
// be used again.
func TestStart_fails(t *testing.T) {
	good := xenchan(t)
	for name, c := range map[string]struct {
		cfg  sim.Config
		says string
	}{
		"the same name twice": {sim.Config{Domains: []sim.Domain{web, web}, Daemon: true, Command: good}, "create domain web"},
		"a bad channel":       {sim.Config{Domains: []sim.Domain{web, {Name: "x", Channels: []channel.Spec{{Name: "a/b", Connection: channel.PTY}}}}, Command: good}, "a/b"},
		"no such program":     {sim.Config{Domains: []sim.Domain{web}, Command: []string{"/no/such/program"}}, "start the guest web"},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.Dir = t.TempDir()
			h, err := sim.Start(t.Context(), c.cfg)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v, %v", h, err)
			}
			if exists(filepath.Join(c.cfg.Dir, "guest-web.pid")) && runs(pid(t, c.cfg.Dir, "guest-web")) {
				t.Error("a guest still runs")
			}
			start(t, sim.Config{Dir: c.cfg.Dir})
		})
	}
}

func TestStart_directoryIsTaken(t *testing.T) {
	dir := t.TempDir()
	start(t, sim.Config{Dir: dir})
	if h, err := sim.Start(t.Context(), sim.Config{Dir: dir}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("%v, %v", h, err)
	}
}

func TestReady_namesWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	h := start(t, sim.Config{Dir: dir, Domains: []sim.Domain{web}, Command: []string{"true"}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := h.Ready(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "channel a of web") {
		t.Errorf("%v", err)
	}
	if len(h.Domains()) != 2 || h.Domains()[1].State != xensim.StateRunning {
		t.Errorf("%+v", h.Domains()) // a guest that never came is not one that crashed
	}
}

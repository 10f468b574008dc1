// Package e2e holds no code. Its tests run an embedded host as users do: a
// daemon and guests in processes of their own, commands, and programs at both
// ends of the channels.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/endpoint/pty"
	"github.com/xenchan/xenchan/internal/cli"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore"
)

func TestMain(m *testing.M) {
	// The race detector would have every xenchan sleep for a second at its end.
	os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0"))
	if filepath.Base(os.Args[0]) == "xenchan" {
		os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// patience is for a whole transfer on a busy machine.
const patience = 3 * time.Minute

// host is an embedded host with a daemon, in processes.
type host struct {
	*sim.Host
	t     *testing.T
	dir   string
	store *xenstore.Store
	tools *toolstack.Toolstack
}

// start starts a host and waits until all is ready.
func start(t *testing.T, domains ...sim.Domain) *host {
	t.Helper()
	return startBy(t, []string{xenchan(t)}, domains...)
}

// startBy starts a host whose processes are begun with a command line of one's own.
func startBy(t *testing.T, command []string, domains ...sim.Domain) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir()}
	var said buffer
	var err error
	h.Host, err = sim.Start(t.Context(), sim.Config{
		Dir: h.dir, Domains: domains, Daemon: true, Command: command, Stderr: &said,
	})
	h.check(err)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the processes said:\n%s", said.tail())
		}
	})
	h.store, err = xenstore.Open(t.Context(), filepath.Join(h.dir, "xenstored.sock"))
	h.check(err)
	t.Cleanup(func() { h.store.Close() })
	h.tools = &toolstack.Toolstack{Store: h.store, RunDir: sim.RunDir(h.dir)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	h.check(h.Ready(ctx))
	return h
}

// xenchan is the test binary under the name that makes it xenchan.
func xenchan(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "xenchan")
	if os.Link(self, path) == nil {
		return path
	}
	binary, err := os.ReadFile(self) // on another file system
	if err == nil {
		err = os.WriteFile(path, binary, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// buffer takes what several processes say.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) tail() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Bytes()[max(0, b.b.Len()-8000):]
}

func (h *host) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// xenchan runs a command and returns what it prints.
func (h *host) xenchan(args ...string) string {
	h.t.Helper()
	var out, says bytes.Buffer
	args = append(args, "--host", "sim:"+h.dir)
	if status := cli.Main(h.t.Context(), args, strings.NewReader(""), &out, &says); status != 0 {
		h.t.Fatalf("xenchan %v: status %d, %s", args, status, says.Bytes())
	}
	return strings.TrimSpace(out.String())
}

func (h *host) channel(domain, name string) toolstack.Channel {
	h.t.Helper()
	d, err := h.tools.Resolve(h.t.Context(), domain)
	h.check(err)
	c, err := h.tools.Find(h.t.Context(), d, name)
	h.check(err)
	return c
}

func (h *host) row(c toolstack.Channel) daemon.Status {
	h.t.Helper()
	var last daemon.Status
	h.eventually("a row for "+c.Name, func() bool {
		rows, err := daemon.Query(h.t.Context(), sim.RunDir(h.dir))
		i := slices.IndexFunc(rows, func(s daemon.Status) bool { return s.DomID == c.DomID && s.DevID == c.DevID })
		if err == nil && i >= 0 {
			last = rows[i]
		}
		return err == nil && i >= 0
	})
	return last
}

// pid is the number of one of the host's processes.
func (h *host) pid(name string) int {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, name+".pid"))
	h.check(err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	h.check(err)
	return pid
}

func (h *host) eventually(what string, ok func() bool) {
	h.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("never happened: %s", what)
		}
	}
}

// inGuest opens a channel as a program in the guest does: raw before all else.
func (h *host) inGuest(domain, name string) *os.File {
	h.t.Helper()
	return h.open(filepath.Join(sim.GuestDir(h.dir, domain), name))
}

func (h *host) open(tty string) *os.File {
	h.t.Helper()
	h.eventually("terminal "+tty, func() bool { return exists(tty) })
	f, err := os.OpenFile(tty, os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	h.check(err)
	h.t.Cleanup(func() { f.Close() })
	h.check(pty.MakeRaw(f))
	f.SetDeadline(time.Now().Add(patience))
	return f
}

// onHost connects as a program on the host does.
func (h *host) onHost(c toolstack.Channel) net.Conn {
	h.t.Helper()
	var conn net.Conn
	h.eventually("a connection to "+c.Path, func() bool {
		var err error
		conn, err = net.Dial("unix", c.Path)
		return err == nil
	})
	h.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// say checks that what one end writes is what the other reads.
func (h *host) say(from io.Writer, to io.Reader, msg string) {
	h.t.Helper()
	_, err := io.WriteString(from, msg)
	h.check(err)
	got := make([]byte, len(msg))
	if n, err := io.ReadFull(to, got); err != nil || string(got) != msg {
		h.t.Fatalf("%q was said, %q was heard, %v", msg, got[:n], err)
	}
}

// dump is every node and its value, sorted.
func (h *host) dump() []string {
	h.t.Helper()
	var all []string
	var walk func(path string)
	walk = func(path string) {
		value, err := h.store.Read(h.t.Context(), path)
		h.check(err)
		all = append(all, path+" = "+value)
		names, err := h.store.List(h.t.Context(), path)
		h.check(err)
		for _, n := range names {
			walk(filepath.Join(path, n))
		}
	}
	walk("/")
	slices.Sort(all)
	return all
}

// descriptors is how many a process has open.
func (h *host) descriptors(pid int) int {
	h.t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	h.check(err)
	return len(names)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// runs reports whether a process is there and not a zombie.
func runs(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

func socket(name string) channel.Spec {
	return channel.Spec{Name: name, Connection: channel.Socket}
}

// history collects every value of a node, until the test ends.
func (h *host) history(path string) func() []string {
	h.t.Helper()
	watch, err := h.store.Watch(h.t.Context(), path)
	h.check(err)
	var mu sync.Mutex
	var seen []string
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := watch.Next(context.Background()); err != nil {
				return
			}
			v, _ := h.store.Read(context.Background(), path)
			mu.Lock()
			seen = append(seen, v)
			mu.Unlock()
		}
	})
	h.t.Cleanup(func() { watch.Close(); wg.Wait() })
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
}

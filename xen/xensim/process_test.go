package xensim_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xen/xentest"
	"github.com/xenchan/xenchan/xenstore"
)

// The test binary runs itself as the other processes of a host; the variable
// says as which, with its arguments.
const roleVar = "XENSIM_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if err := playRole(strings.Fields(role)); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if fuzzing := flag.Lookup("test.fuzz"); code == 0 && fuzzing.Value.String() == "" {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func playRole(args []string) error {
	role, dir := args[0], args[1]
	if role == "host" {
		if _, err := xensim.Start(dir, xensim.Config{}); err != nil {
			return err
		}
		fmt.Println("ready")
		select {}
	}
	dom, err := xen.ParseDomID(args[2])
	if err != nil {
		return err
	}
	c, err := xensim.Connect(context.Background(), dir, dom)
	if role == "connect" {
		var errno syscall.Errno
		_ = errors.As(err, &errno)
		fmt.Println("errno", int(errno))
		return nil
	}
	if err != nil {
		return err
	}
	var ch xen.EventChannel
	var mem xen.Pages
	if role == "front" {
		var shared xen.SharedPages
		if shared, err = c.SharePages(0, 1); err != nil {
			return err
		}
		mem = shared
		if ch, err = c.AllocUnbound(0); err != nil {
			return err
		}
		copy(mem.Bytes(), "from the guest")
		fmt.Println("ready", ch.Port(), shared.Refs()[0])
	} else {
		port, _ := xen.ParsePort(args[3])
		ref, _ := xen.ParseGrantRef(args[4])
		if ch, err = c.BindInterdomain(1, port); err != nil {
			return err
		}
		if mem, err = c.MapGrants(1, ref); err != nil {
			return err
		}
		copy(mem.Bytes(), "from the backend")
		fmt.Println("ready")
	}
	for w := xentest.Wait(ch); err == nil; { // answers every event
		if err = w.Wait(); err == nil {
			err = errors.Join(w.Unmask(), w.Notify())
		}
	}
	return err
}

// process is this binary in another role.
type process struct {
	cmd *exec.Cmd
	out *bufio.Reader
}

func start(t *testing.T, attr *syscall.SysProcAttr, role ...any) *process {
	t.Helper()
	// The name works for any user, who may not reach the binary by its own.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"="+strings.TrimSpace(fmt.Sprintln(role...)))
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, out: bufio.NewReader(out)}
	t.Cleanup(p.kill)
	return p
}

// line is the words of the next line that the process prints.
func (p *process) line(t *testing.T, first string) []string {
	t.Helper()
	s, err := p.out.ReadString('\n')
	words := strings.Fields(s)
	if err != nil || words[0] != first {
		t.Fatalf("process said %q (%v), want %s", s, err, first)
	}
	return words[1:]
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_, _ = io.Copy(io.Discard, p.out)
	_ = p.cmd.Wait()
}

// eventually polls for what only happens some time after a process has died.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// info is what the host says of a domain, nil if there is none.
func info(h *xensim.Host, id xen.DomID) *xensim.DomainInfo {
	for _, d := range h.Domains() {
		if d.ID == id {
			return &d
		}
	}
	return nil
}

func openStore(t testing.TB, c *xensim.Conn) *xenstore.Store {
	t.Helper()
	stream, err := c.OpenStore(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	s := xenstore.New(stream)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func parsePortRef(t *testing.T, words []string) (xen.Port, xen.GrantRef) {
	t.Helper()
	port, err := xen.ParsePort(words[0])
	if err != nil {
		t.Fatal(err)
	}
	ref, err := xen.ParseGrantRef(words[1])
	if err != nil {
		t.Fatal(err)
	}
	return port, ref
}

func roundTrip(t *testing.T, ch *xentest.Waiter) {
	t.Helper()
	if err := errors.Join(ch.Notify(), ch.Wait(), ch.Unmask()); err != nil {
		t.Fatal(err)
	}
}

func TestProcess_guestKilled(t *testing.T) {
	h, dir := newHost(t, xensim.Config{})
	g := newGuest(t, h, xensim.DomainConfig{Name: "victim"})
	dom0 := connect(t, dir, 0)
	xs := openStore(t, dom0)
	released, err := xs.Watch(t.Context(), "@releaseDomain")
	if err != nil {
		t.Fatal(err)
	}
	defer released.Close()
	<-released.C() // the first one means nothing
	released.Take()

	guest := start(t, nil, "front", dir, g.ID)
	port, ref := parsePortRef(t, guest.line(t, "ready"))
	bound, err := dom0.BindInterdomain(g.ID, port)
	if err != nil {
		t.Fatal(err)
	}
	ch := xentest.Wait(bound)
	if err := errors.Join(ch.Wait(), ch.Unmask()); err != nil {
		t.Fatal(err)
	}
	mem, err := dom0.MapGrants(g.ID, ref)
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, ch)

	guest.kill()
	<-released.C()
	eventually(t, "the dead guest is a zombie", func() bool {
		d := info(h, g.ID)
		return d != nil && d.State == xensim.StateDying
	})
	if got := string(mem.Bytes()[:14]); got != "from the guest" {
		t.Errorf("memory of the dead guest is %q", got)
	}
	if d := info(h, g.ID); d.ForeignMaps != 1 || d.Ports != 0 || d.Connections != 0 {
		t.Errorf("zombie is %+v", *d)
	}
	if err := ch.Notify(); err != nil {
		t.Errorf("Notify of a dead guest: %v", err)
	}
	if _, err := dom0.BindInterdomain(g.ID, port); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("bind to a dead guest: %v, want ESRCH", err)
	}
	if _, err := dom0.MapGrants(g.ID, ref); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("another map of a dead guest: %v, want EINVAL", err)
	}
	if ok, err := xs.Exists(t.Context(), "/local/domain/"+g.ID.String()); ok || err != nil {
		t.Errorf("nodes of the dead guest are there: %v, %v", ok, err)
	}
	if err := mem.Close(); err != nil {
		t.Fatal(err)
	}
	if d := info(h, g.ID); d != nil {
		t.Errorf("zombie outlived the last mapping: %+v", *d)
	}
	if err := ch.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestProcess_backendKilled(t *testing.T) {
	h, dir := newHost(t, xensim.Config{})
	g := newGuest(t, h, xensim.DomainConfig{Name: "survivor"})
	front := connect(t, dir, g.ID)
	port, err := front.AllocUnbound(0)
	if err != nil {
		t.Fatal(err)
	}
	ch := xentest.Wait(port)
	mem, err := front.SharePages(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		clear(mem.Bytes())
		back := start(t, nil, "back", dir, 0, ch.Port(), mem.Refs()[0])
		back.line(t, "ready")
		if got := string(mem.Bytes()[:16]); got != "from the backend" {
			t.Errorf("the backend wrote %q", got)
		}
		roundTrip(t, ch)
		if _, err := connect(t, dir, 0).BindInterdomain(g.ID, ch.Port()); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("bind while another process is bound: %v, want EINVAL", err)
		}
		back.kill()
		eventually(t, "what the dead backend had is free", func() bool {
			d0, dg := info(h, 0), info(h, g.ID)
			return d0.Ports == 0 && d0.Mapped == 0 && dg.ForeignMaps == 0
		})
		if err := ch.Notify(); err != nil {
			t.Errorf("Notify of a dead backend: %v", err)
		}
		if d := info(h, g.ID); d.State != xensim.StateRunning || d.Ports != 1 || d.Grants != 1 {
			t.Errorf("guest is %+v", *d)
		}
	}
}

func TestProcess_hostKilled(t *testing.T) {
	dir := t.TempDir()
	host := start(t, nil, "host", dir)
	host.line(t, "ready")
	dom0 := connect(t, dir, 0)
	if _, err := xensim.Start(dir, xensim.Config{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("a second host: %v, want EADDRINUSE", err)
	}
	ch, err := dom0.AllocUnbound(0)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := dom0.SharePages(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	host.kill()
	mem.Bytes()[0] = 1 // stays memory
	if err := errors.Join(ch.Notify(), ch.Close(), mem.Close()); err != nil {
		t.Errorf("what a dead host has given: %v", err)
	}
	_, err = dom0.AllocUnbound(0)
	if errno := syscall.Errno(0); !errors.As(err, &errno) {
		t.Errorf("hypercall to a dead host: %v, want an errno", err)
	}
	h, err := xensim.Start(dir, xensim.Config{}) // over the stale sockets
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	roundTrip0(t, connect(t, dir, 0))
}

// roundTrip0 shows that hypercalls work.
func roundTrip0(t *testing.T, c *xensim.Conn) {
	t.Helper()
	ch, err := c.AllocUnbound(0)
	if err != nil {
		t.Fatal(err)
	}
	_ = ch.Close()
}

// A process without room for descriptors loses the one hypercall, not its
// connection.
func TestProcess_noDescriptorsLeft(t *testing.T) {
	dir := t.TempDir()
	host := start(t, nil, "host", dir)
	host.line(t, "ready")
	c := connect(t, dir, 0)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	few := old
	few.Cur = 3 // what is open stays open
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	_, err1 := c.AllocUnbound(0)
	_, err2 := c.SharePages(0, 1)
	_, err3 := c.OpenStore(t.Context())
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{err1, err2, err3} {
		if !errors.Is(err, syscall.EMFILE) {
			t.Errorf("got %v, want EMFILE", err)
		}
	}
	ch, err := c.AllocUnbound(0)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := c.SharePages(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if ch.Port() != 1 || mem.Refs()[0] != 8 {
		t.Errorf("got port %v and reference %v: the failed hypercalls left theirs behind", ch.Port(), mem.Refs()[0])
	}
}

func TestConnect_credentials(t *testing.T) {
	dir, err := os.MkdirTemp("", "xensim") // one that other users can enter
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	h, err := xensim.Start(dir, xensim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	other := uint32(os.Geteuid() + 65000)
	mine := newGuest(t, h, xensim.DomainConfig{Name: "mine"})
	theirs := newGuest(t, h, xensim.DomainConfig{Name: "theirs", UID: other})
	if _, err := xensim.Connect(t.Context(), dir, theirs.ID); !errors.Is(err, syscall.EPERM) {
		t.Errorf("guest of another user: %v, want EPERM", err)
	}
	if os.Geteuid() != 0 {
		return // only root can be somebody else
	}
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: other, Gid: other, NoSetGroups: true}}
	for dom, want := range map[xen.DomID]syscall.Errno{
		0: syscall.EPERM, mine.ID: syscall.EPERM, theirs.ID: 0, 99: syscall.ESRCH,
	} {
		p := start(t, as, "connect", dir, dom)
		if got := p.line(t, "errno")[0]; got != strconv.Itoa(int(want)) {
			t.Errorf("user %d as domain %v: errno %s, want %d", other, dom, got, int(want))
		}
		p.kill()
	}
}

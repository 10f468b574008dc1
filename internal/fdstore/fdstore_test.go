package fdstore_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/internal/fdstore"
	"github.com/xenchan/xenchan/internal/sys"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "service" {
		service()
		return
	}
	goleak.VerifyTestMain(m)
}

// service is a process that is killed: it says what it found, follows orders, and
// says when it has.
func service() {
	s, err := fdstore.Inherit()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(os.Getenv("LISTEN_FDS"), s.Keeps(), strings.Join(s.Names(), " "))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		order, name, _ := strings.Cut(in.Text(), " ")
		switch order {
		case "keep": // a pipe that holds its name
			p, err := sys.NewPipe()
			if err == nil {
				_, err = p.Write([]byte(name))
			}
			if err == nil {
				err = s.Keep(name, p.Handle())
			}
			fmt.Println("kept", err)
		case "forget":
			fmt.Println("forgotten", s.Forget(name))
		case "read":
			h := s.Claim(name)
			if h == nil {
				fmt.Println("nothing")
				continue
			}
			p, err := sys.PipeOf(h)
			if err != nil {
				fmt.Println(err)
				continue
			}
			buf := make([]byte, 100)
			n, err := p.Read(buf)
			fmt.Println(string(buf[:n]), err)
		}
	}
}

// process is one process of the service.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  *os.File
	out *bufio.Scanner
}

func start(t *testing.T, m *fdstore.Manager) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], "service")
	started, err := m.Equip(cmd)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started()
	r.Close()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	return &process{t, cmd, w, lines}
}

func (p *process) expect(want string) {
	p.t.Helper()
	if !p.out.Scan() || p.out.Text() != want {
		p.t.Fatalf("the service says %q, want %q", p.out.Text(), want)
	}
}

func (p *process) ask(order, want string) {
	p.t.Helper()
	fmt.Fprintln(p.in, order)
	p.expect(want)
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.in.Close()
}

func newManager(t *testing.T) *fdstore.Manager {
	t.Helper()
	m, err := fdstore.NewManager(filepath.Join(t.TempDir(), "notify"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// What a process has kept, the next has, whatever the last did with its own.
func TestStore_processesAreKilled(t *testing.T) {
	m := newManager(t)
	p := start(t, m)
	p.expect(" true ")
	p.ask("keep 1-1.in", "kept <nil>")
	p.ask("keep 1-1.out", "kept <nil>")
	p.ask("keep 2-7.in", "kept <nil>")
	p.ask("forget 1-1.out", "forgotten <nil>")
	p.kill()
	for range 2 { // the manager keeps what it gives
		p = start(t, m)
		p.expect(" true 1-1.in 2-7.in")
		p.kill()
	}
	p = start(t, m)
	p.expect(" true 1-1.in 2-7.in")
	p.ask("read 1-1.in", "1-1.in <nil>")
	p.ask("read 1-1.in", "nothing")
	p.ask("forget 1-1.in", "forgotten <nil>")
	p.kill()
	p = start(t, m)
	p.expect(" true 2-7.in")
	p.ask("forget 2-7.in", "forgotten <nil>")
	p.ask("read 2-7.in", "nothing")
	p.kill()
}

// A service that says much and dies is heard to the end.
func TestStore_lastWordsAreHeard(t *testing.T) {
	m := newManager(t)
	p := start(t, m)
	p.expect(" true ")
	for i := range 200 {
		p.ask(fmt.Sprintf("keep %d", i), "kept <nil>")
	}
	p.kill()
	p = start(t, m)
	defer p.kill()
	if started, err := m.Equip(exec.Command("true")); err != nil {
		t.Fatal(err)
	} else {
		started()
	}
	if n := len(m.Kept()); n != 200 {
		t.Errorf("%d descriptors are kept", n)
	}
}

// The names go to the next process in one variable of its environment. What has no room
// there is not kept: else there would be no next process.
func TestStore_manyNames(t *testing.T) {
	m := newManager(t)
	p := start(t, m)
	p.expect(" true ")
	const n = 128 << 10 / 256
	name := func(i int) string { return fmt.Sprintf("%0255d", i) }
	for i := range n {
		want := "kept <nil>"
		if i*256 > 127<<10-256 {
			want = "kept " + fdstore.ErrFull.Error()
		}
		p.ask("keep "+name(i), want)
	}
	p.ask("forget "+name(0), "forgotten <nil>")
	p.ask("keep "+name(1), "kept <nil>")
	p.ask("keep "+name(n), "kept <nil>")
	p.ask("keep "+name(n+1), "kept "+fdstore.ErrFull.Error())
	p.kill()
	p = start(t, m)
	defer p.kill()
	if !p.out.Scan() || !strings.HasSuffix(p.out.Text(), " "+name(n)) {
		t.Fatalf("the next process says %.100q", p.out.Text())
	}
	p.ask("keep "+name(0), "kept "+fdstore.ErrFull.Error()) // it counts what it was given
}

// The messages are those of sd_notify(3) and sd_pid_notify_with_fds(3): one
// datagram of lines KEY=VALUE, with the descriptor in SCM_RIGHTS.
func TestStore_messages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	t.Setenv("NOTIFY_SOCKET", path)
	s, err := fdstore.Inherit()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p, err := sys.NewPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.Write([]byte("mine"))
	if err := s.Keep("3-1.in", p.Handle()); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget("3-1.in"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	n, hs, err := sys.RecvMsg(conn, buf, 5)
	if err != nil || len(hs) != 1 {
		t.Fatalf("%d descriptors, %v", len(hs), err)
	}
	defer sys.CloseAll(hs)
	if got := string(buf[:n]); got != "FDSTORE=1\nFDPOLL=0\nFDNAME=3-1.in" {
		t.Errorf("%q", got)
	}
	if q, err := sys.PipeOf(hs[0]); err != nil {
		t.Error(err)
	} else if n, err := q.Len(); n != 4 || err != nil {
		t.Errorf("another pipe came: %d, %v", n, err)
	}
	n, hs, err = sys.RecvMsg(conn, buf, 5)
	if got := string(buf[:n]); err != nil || len(hs) > 0 || got != "FDSTOREREMOVE=1\nFDNAME=3-1.in" {
		t.Errorf("%q, %d descriptors, %v", got, len(hs), err)
	}
}

func TestStore_withoutManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	s, err := fdstore.Inherit()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, s := range []*fdstore.Store{s, nil} {
		if s.Keeps() || s.Keep("x", nil) != nil || s.Forget("x") != nil || s.Claim("x") != nil || len(s.Names()) > 0 {
			t.Error("a store without a manager keeps something")
		}
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	s, err = fdstore.Inherit()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Forget("x"); err == nil {
		t.Error("a manager that is not there is no error")
	}
}

// What a service says is not trusted further than it must be.
func FuzzManager(f *testing.F) {
	for _, seed := range []string{
		"FDSTORE=1\nFDPOLL=0\nFDNAME=a", "FDSTORE=1", "FDNAME=a:b\nFDSTORE=1", "FDSTOREREMOVE=1\nFDNAME=a",
		"READY=1", "", "\n=\n=1\nFDNAME", "X_MARK=0x0", "FDSTORE=1\nFDNAME=" + strings.Repeat("a", 256),
	} {
		f.Add([]byte(seed))
	}
	dir := f.TempDir()
	m, err := fdstore.NewManager(filepath.Join(dir, "notify"))
	if err != nil {
		f.Fatal(err)
	}
	defer m.Close()
	to := &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		f.Fatal(err)
	}
	defer conn.Close()
	f.Fuzz(func(t *testing.T, message []byte) {
		p, err := sys.NewPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if len(message) > 4000 || sys.SendMsgTo(conn, to, append(message, '\n'), p.Handle()) != nil {
			return
		}
		cmd := exec.Command("true")
		started, err := m.Equip(cmd)
		if err != nil {
			t.Fatal(err)
		}
		started()
		names := m.Kept()
		if len(cmd.ExtraFiles) != len(names) {
			t.Fatalf("%d descriptors with %d names", len(cmd.ExtraFiles), len(names))
		}
		for _, name := range names {
			if name == "" || len(name) > 255 || strings.ContainsAny(name, ":\n \x00") {
				t.Fatalf("name %q", name)
			}
			sys.SendMsgTo(conn, to, []byte("FDSTOREREMOVE=1\nFDNAME="+name))
		}
	})
}

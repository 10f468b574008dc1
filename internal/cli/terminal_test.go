package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/term"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/endpoint/pty"
)

// newHost runs an embedded host with the configuration until the end of the test.
func newHost(t *testing.T, config string) (dir string) {
	t.Helper()
	base, err := os.MkdirTemp("/tmp", "xc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	cfg := filepath.Join(base, "web.cfg")
	if err := os.WriteFile(cfg, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(base, "h")
	cmd, err := startHost(dir, nil, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stopHost(cmd, dir, syscall.SIGINT); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// xenchan runs a command on a host and gives its output.
func xenchan(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := exec.Command("xenchan", append(args, "--host", "sim:"+dir)...).CombinedOutput()
	if err != nil {
		t.Fatalf("xenchan %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// guestTTY opens a terminal in a guest, in raw mode as an agent does.
func guestTTY(t *testing.T, dir, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "guests/web/xen-channel", name), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := term.MakeRaw(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	return f
}

// person sits at a terminal on which a program runs.
type person struct {
	t     *testing.T
	tty   *os.File        // the program's side
	keys  endpoint.Client // and the person's
	cmd   *exec.Cmd
	modes *term.State // before the program

	mu   sync.Mutex
	seen bytes.Buffer // guarded by mu
	done chan struct{}
}

// sit runs xenchan on a terminal of its own, in cooked mode.
func sit(t *testing.T, dir string, args ...string) *person {
	t.Helper()
	ep, err := pty.Open(pty.Config{Line: pty.Cooked})
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, done: make(chan struct{})}
	if p.tty, err = os.OpenFile(ep.Path(), os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	if p.keys, err = ep.Accept(context.Background()); err != nil {
		t.Fatal(err)
	}
	if p.modes, err = term.GetState(int(p.tty.Fd())); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command("xenchan", append(args, "--host", "sim:"+dir)...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = p.tty, p.tty, p.tty
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		buf := make([]byte, 4096)
		for {
			n, err := p.keys.Read(buf)
			p.mu.Lock()
			p.seen.Write(buf[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.tty.Close()
		p.keys.Close()
		<-p.done
		ep.Close()
	})
	return p
}

func (p *person) types(s string) {
	p.t.Helper()
	typed := make(chan error, 1)
	go func() { // ends at the latest when Cleanup closes keys
		_, err := p.keys.Write([]byte(s))
		typed <- err
	}()
	select {
	case err := <-typed:
		if err != nil {
			p.t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		p.t.Fatal("the program does not take what is typed")
	}
}

func (p *person) screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// sees waits until the screen shows s.
func (p *person) sees(s string) {
	p.t.Helper()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(p.screen(), s); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("the screen does not show %q but %q", s, p.screen())
		}
	}
}

// leaves waits for the end of the program: its status, and the terminal as before.
func (p *person) leaves(status int) {
	p.t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	select {
	case err := <-ended:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			p.t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		p.cmd.Process.Kill()
		<-ended
		p.t.Fatalf("the program does not end; the screen shows %q", p.screen())
	}
	if got := p.cmd.ProcessState.ExitCode(); got != status {
		p.t.Errorf("exit status %d, want %d; the screen shows %q", got, status, p.screen())
	}
	now, err := term.GetState(int(p.tty.Fd()))
	if err != nil {
		p.t.Fatal(err)
	}
	if !reflect.DeepEqual(now, p.modes) {
		p.t.Errorf("terminal modes are %+v, were %+v", now, p.modes)
	}
}

const twoChannels = `name = "web"
channel = [ "connection=socket,name=org.example.sock.0", "connection=pty,name=org.example.tty.0" ]
`

func TestConnect_onTerminal(t *testing.T) {
	dir := newHost(t, twoChannels)
	for _, name := range []string{"org.example.sock.0", "org.example.tty.0"} {
		t.Run(name, func(t *testing.T) {
			guest := guestTTY(t, dir, name)
			p := sit(t, dir, "connect", "web", name)
			p.sees("^] ends it\r\n")

			// Raw: control characters go to the guest, nothing is echoed or changed.
			const keys = "a\x03\x04\x1a\x11\r\n\x7f\xff z"
			p.types(keys)
			got := make([]byte, len(keys))
			if _, err := io.ReadFull(guest, got); err != nil || string(got) != keys {
				t.Fatalf("the guest reads %q, %v; want %q", got, err, keys)
			}
			guest.Write([]byte("one\ntwo\r\n"))
			p.sees("ends it\r\none\ntwo\r\n")

			// What was typed before the escape still arrives, what comes after does not.
			p.types("bye\x1dnot this")
			got = make([]byte, 3)
			if _, err := io.ReadFull(guest, got); err != nil || string(got) != "bye" {
				t.Fatalf("the guest reads %q, %v", got, err)
			}
			p.leaves(0)
		})
	}
}

// Who looks on at a terminal has the guest's bytes as they are, and sends none.
func TestConnect_observeOnTerminal(t *testing.T) {
	dir := newHost(t, twoChannels)
	for _, end := range []string{"\x1d", "\x03"} {
		guest := guestTTY(t, dir, "org.example.sock.0")
		p := sit(t, dir, "connect", "web", "org.example.sock.0", "--observe")
		p.sees("^] or ^C ends it\r\n")
		for !strings.Contains(xenchan(t, dir, "list", "web", "-o", "json"), `"observers": 1`) {
			time.Sleep(10 * time.Millisecond)
		}
		guest.Write([]byte("one\ntwo\r\n"))
		p.sees("ends it\r\none\ntwo\r\n")
		p.types("not for the guest" + end)
		p.leaves(0)
		client := exec.Command("xenchan", "connect", "web", "org.example.sock.0", "--live", "--linger", "0", "--host", "sim:"+dir)
		client.Stdin = strings.NewReader("of a client")
		if out, err := client.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		got := make([]byte, 11)
		if _, err := io.ReadFull(guest, got); err != nil || string(got) != "of a client" {
			t.Errorf("the guest gets %q first, %v", got, err)
		}
	}
}

// A guest that does not read cannot keep a person from leaving.
func TestConnect_escapeFromSilentGuest(t *testing.T) {
	dir := newHost(t, twoChannels)
	p := sit(t, dir, "connect", "web", "org.example.sock.0")
	p.sees("ends it")
	p.types(strings.Repeat("x", 2<<20))
	p.sees("\a") // nothing more is taken
	p.types("\x1d")
	p.leaves(0)
}

func TestConnect_channelGoes(t *testing.T) {
	dir := newHost(t, twoChannels)
	sock := sit(t, dir, "connect", "web", "org.example.sock.0")
	sock.sees("ends it")
	xenchan(t, dir, "detach", "web", "org.example.sock.0")
	sock.leaves(1)
	sock.sees("xenchan: org.example.sock.0 was closed from the other side")

	tty := sit(t, dir, "connect", "web", "org.example.tty.0")
	tty.sees("ends it")
	xenchan(t, dir, "detach", "web", "org.example.tty.0")
	tty.leaves(1)
	tty.sees("xenchan: org.example.tty.0 was closed from the other side")
}

// A signal ends it too, and the terminal is as it was.
func TestConnect_signal(t *testing.T) {
	dir := newHost(t, twoChannels)
	p := sit(t, dir, "connect", "web", "org.example.tty.0")
	p.sees("ends it")
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.leaves(0)
}

func TestKeyboard_splitsAtEscape(t *testing.T) {
	var left bool
	k := newKeyboard(io.Discard, func() { left = true })
	k.run(io.MultiReader(strings.NewReader("abc"), strings.NewReader("de\x1dfg"), strings.NewReader("hi")))
	got, err := io.ReadAll(k)
	if err != nil || string(got) != "abcde" || !left {
		t.Errorf("typed %q, %v, left %v", got, err, left)
	}
}

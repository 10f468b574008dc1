package pty_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/endpoint/pty"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func accept(t *testing.T, e *pty.Endpoint) endpoint.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := e.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(r, got)
	if string(got[:n]) != want || err != nil {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

// stty runs stty(1) on a terminal that is held open by f.
func stty(t *testing.T, f *os.File, args ...string) {
	t.Helper()
	cmd := exec.Command("stty", args...)
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("stty: %v: %s", err, out)
	}
}

// waitReset waits until the line mode is set again after the last opener left:
// that happens a moment later.
func waitReset() { time.Sleep(50 * time.Millisecond) }

func TestOpen_rights(t *testing.T) {
	for _, tt := range []struct {
		cfg      pty.Config
		mode     os.FileMode
		uid, gid uint32
	}{
		{pty.Config{}, 0o600, uint32(os.Getuid()), uint32(os.Getgid())},
		{pty.Config{Mode: 0o660, UID: new(1234), GID: new(5678)}, 0o660, 1234, 5678},
	} {
		e := open(t, tt.cfg)
		info, err := os.Stat(e.Path())
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if info.Mode().Perm() != tt.mode || st.Uid != tt.uid || st.Gid != tt.gid {
			t.Errorf("%+v: mode %v, owner %d, group %d", tt.cfg, info.Mode(), st.Uid, st.Gid)
		}
	}
}

func TestLine_rawAgainAfterLastClose(t *testing.T) {
	e := open(t, pty.Config{})
	for range 5 {
		first, second := dial(t, e.Path()), dial(t, e.Path())
		c := accept(t, e)
		stty(t, first, "sane", "-echo")
		first.Close()
		waitReset()
		write(t, c, "hello\r") // still cooked: the second one has it open
		expect(t, second, "hello\n")
		second.Close()
		c.WaitGone()
		c.Close()
		waitReset()
		third := dial(t, e.Path())
		c = accept(t, e)
		write(t, c, "\x03\r\x13")
		expect(t, third, "\x03\r\x13")
		write(t, third, "a\nb")
		expect(t, c, "a\nb")
		third.Close()
		c.WaitGone()
		c.Close()
	}
}

func TestLine_cookedAgainAfterLastClose(t *testing.T) {
	e := open(t, pty.Config{Line: pty.Cooked})
	for i := range 3 {
		tty := dial(t, e.Path())
		c := accept(t, e)
		write(t, c, "line\r")
		expect(t, tty, "line\n")
		expect(t, c, "line\r\n") // the echo
		if err := pty.MakeRaw(tty); err != nil {
			t.Fatal(err)
		}
		write(t, c, "raw\r")
		expect(t, tty, "raw\r")
		write(t, tty, "\n.")
		expect(t, c, "\n.")
		tty.Close()
		c.WaitGone()
		if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
			t.Fatalf("round %d: %q, %v after raw mode", i, rest, err)
		}
		c.Close()
		waitReset()
	}
}

func TestMakeRaw_notATerminal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := pty.MakeRaw(f); !errors.Is(err, syscall.ENOTTY) {
		t.Errorf("%v, want ENOTTY", err)
	}
}

// TestLine_leftUnusable: exclusive use and stopped output outlive, in the
// kernel, whoever asked for them.
func TestLine_leftUnusable(t *testing.T) {
	const tcxonc, tcooff, tiocexcl = 0x540a, 0, 0x540c
	e := open(t, pty.Config{})
	tty := dial(t, e.Path())
	c := accept(t, e)
	ioctl(t, tty, tiocexcl, 0)
	ioctl(t, tty, tcxonc, tcooff)
	tty.Close()
	c.WaitGone()
	c.Close()
	waitReset()

	tty = dial(t, e.Path())
	c = accept(t, e)
	tty.SetWriteDeadline(time.Now().Add(5 * time.Second))
	write(t, tty, "not stopped")
	expect(t, c, "not stopped")
	// Root may open it in any case, so ask with another user's eyes.
	cmd := exec.Command("socat", "-u", "/dev/null", e.Path())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}
	if err := os.Chmod(e.Path(), 0o666); err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("open as another user: %v: %s", err, out)
	}
}

func ioctl(t *testing.T, f *os.File, request, arg uintptr) {
	t.Helper()
	rc, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var errno syscall.Errno
	if err := rc.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, request, arg)
	}); err != nil || errno != 0 {
		t.Fatalf("ioctl %#x: %v %v", request, err, errno)
	}
}

// TestWrite_unreadBytesWait: what one client did not read is there for the next
// one, also when the buffers were full, and once only.
func TestWrite_unreadBytesWait(t *testing.T) {
	e := open(t, pty.Config{})
	tty := dial(t, e.Path())
	c := accept(t, e)
	want := bytes.Repeat([]byte("0123456789abcde\n"), 1<<12)
	done := make(chan int)
	go func() {
		n, _ := c.Write(want)
		done <- n
	}()
	expect(t, tty, string(want[:1000]))
	tty.Close()
	n := <-done
	c.Close()
	if n <= 1000 || n >= len(want) {
		t.Fatalf("%d bytes were taken", n)
	}
	waitReset()
	tty = dial(t, e.Path())
	c = accept(t, e)
	go func() {
		n, _ := c.Write(want[n:])
		done <- n
	}()
	expect(t, tty, string(want[1000:]))
	<-done
}

// TestAccept_silentOpener: to open a terminal and leave without a word is no client.
func TestAccept_silentOpener(t *testing.T) {
	e := open(t, pty.Config{})
	for range 50 {
		dial(t, e.Path()).Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if c, err := e.Accept(ctx); err == nil {
		t.Fatal("accepted", c)
	}
}

// TestPresence_manyTerminals: more than a user may have inotify instances, and
// each event reaches the right one.
func TestPresence_manyTerminals(t *testing.T) {
	var es []*pty.Endpoint
	for range 200 {
		es = append(es, open(t, pty.Config{}))
	}
	accepted := make(chan int)
	for i, e := range es {
		go func() {
			if c, err := e.Accept(context.Background()); err == nil {
				c.WaitGone()
				c.Close()
				accepted <- i
			}
		}()
	}
	for i := len(es) - 1; i >= 0; i -= 7 {
		tty := dial(t, es[i].Path())
		write(t, tty, "x")
		tty.Close()
		select {
		case got := <-accepted:
			if got != i {
				t.Fatalf("terminal %d accepted the client of %d", got, i)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no client on terminal %d", i)
		}
	}
	for _, e := range es {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}

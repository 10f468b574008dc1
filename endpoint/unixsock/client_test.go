package unixsock_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/endpoint/unixsock"
	"github.com/xenchan/xenchan/internal/sys"
)

// TestClient_leftWithBytesUnread: the kernel calls that a reset, which must not
// cost the bytes that the client sent.
func TestClient_leftWithBytesUnread(t *testing.T) {
	e := listen(t, unixsock.Config{Path: filepath.Join(t.TempDir(), "a.sock")})
	c := dial(t, e.Path())
	host, err := e.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	io.WriteString(host, "never read")
	io.WriteString(c, "goodbye")
	c.Close()
	if got, err := io.ReadAll(host); string(got) != "goodbye" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestClient_peerCred(t *testing.T) {
	e := listen(t, unixsock.Config{Path: filepath.Join(t.TempDir(), "a.sock")})
	dial(t, e.Path())
	host, err := e.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	p := host.(*unixsock.Client).Peer()
	if int(p.PID) != os.Getpid() || int(p.UID) != os.Getuid() || int(p.GID) != os.Getgid() {
		t.Errorf("%+v", p)
	}
}

// TestAdmit_seesTheKernelsWord: a client of another user, with more groups than
// one look has room for, and one that is turned down, which gets no byte.
func TestAdmit_seesTheKernelsWord(t *testing.T) {
	if _, err := exec.LookPath("socat"); err != nil {
		t.Fatalf("this test needs socat: apt-get install socat (%v)", err)
	}
	var groups []uint32
	for g := range uint32(100) {
		groups = append(groups, 70000+g)
	}
	seen := make(chan unixsock.Peer, 2)
	e := listen(t, unixsock.Config{
		Path: sharedDir(t) + "/a.sock", Mode: 0o666,
		Admit: func(p unixsock.Peer) bool { seen <- p; return p.UID != 4321 },
	})
	turnedDown := exec.Command("socat", "-u", "UNIX-CONNECT:"+e.Path(), "-")
	turnedDown.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4321, Gid: 8765, Groups: groups}}
	var got bytes.Buffer
	turnedDown.Stdout = &got
	if err := turnedDown.Start(); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan endpoint.Client)
	go func() {
		c, err := e.Accept(t.Context())
		if err != nil {
			t.Error(err)
			close(accepted)
			return
		}
		io.WriteString(c, "welcome")
		accepted <- c
	}()
	if p := <-seen; p.UID != 4321 || p.GID != 8765 || !slices.Equal(p.Groups, groups) || int(p.PID) != turnedDown.Process.Pid {
		t.Errorf("the first client is %+v", p)
	}
	if err := turnedDown.Wait(); err != nil || got.Len() != 0 {
		t.Errorf("the client that was turned down got %q, %v", got.Bytes(), err)
	}
	c := dial(t, e.Path())
	expect(t, c, "welcome")
	if p := <-seen; int(p.UID) != os.Getuid() {
		t.Errorf("the second client is %+v", p)
	}
	(<-accepted).Close()
}

// sharedDir is a directory that every user can reach.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "unixsock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSocat_bothWays: socat sends 4 MiB, half-closes, and takes as much; then
// it leaves by itself.
func TestSocat_bothWays(t *testing.T) {
	if _, err := exec.LookPath("socat"); err != nil {
		t.Fatalf("this test needs socat: apt-get install socat (%v)", err)
	}
	e := listen(t, unixsock.Config{Path: filepath.Join(t.TempDir(), "a.sock")})
	up := bytes.Repeat([]byte("to the guest \x00\r\n\xff"), 4<<20/16)
	down := bytes.Repeat([]byte("from the guest\n\n"), 4<<20/16)
	var got bytes.Buffer
	socat := exec.Command("socat", "-t60", "-", "UNIX-CONNECT:"+e.Path())
	socat.Stdin, socat.Stdout, socat.Stderr = bytes.NewReader(up), &got, os.Stderr
	if err := socat.Start(); err != nil {
		t.Fatal(err)
	}
	host, err := e.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error)
	go func() {
		_, err := host.Write(down[:len(down)/2])
		sent <- err
	}()
	read, err := io.ReadAll(host)
	if err != nil || !bytes.Equal(read, up) {
		t.Errorf("read %d bytes, %v", len(read), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if host.Gone() {
		t.Error("socat has only half-closed, but is gone")
	}
	if _, err := host.Write(down[len(down)/2:]); err != nil {
		t.Error(err)
	}
	host.Close()
	if err := socat.Wait(); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got.Bytes(), down) {
		t.Errorf("socat passed on %d bytes", got.Len())
	}
}

// A client is given little beyond what it has read, and it is known what that may be,
// until it leaves, and then whether there was any.
func TestClient_unread(t *testing.T) {
	e := listen(t, unixsock.Config{Path: filepath.Join(t.TempDir(), "a.sock")})
	p, err := sys.NewPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	begin := func() (net.Conn, *unixsock.Client) {
		t.Helper()
		peer := dial(t, e.Path())
		c, err := e.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return peer, c.(*unixsock.Client)
	}
	// give gives it as much as it takes in pieces, and says how much that was.
	give := func(c *unixsock.Client, piece, most int) (given int) {
		t.Helper()
		for given < most {
			if held, err := p.Len(); err != nil {
				t.Fatal(err)
			} else if _, err := p.Write(make([]byte, max(0, min(piece, most-given)-held))); err != nil {
				t.Fatal(err)
			}
			n, err := c.WriteFromNow(p)
			if err != nil {
				t.Fatal(err)
			}
			if given += n; n == 0 {
				break
			}
		}
		return given
	}
	read := func(peer net.Conn, n int) {
		t.Helper()
		if _, err := io.ReadFull(peer, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	empty := func() {
		held, err := p.Len()
		if err != nil {
			t.Fatal(err)
		}
		p.Read(make([]byte, held))
	}
	for _, piece := range []int{1, 100, 4096, 32 << 10, 60_000} {
		peer, c := begin()
		first := give(c, piece, 1<<20)
		if first > unixsock.MaxUnread || first == 0 || c.Unread() < first || c.Look() < first {
			t.Errorf("in pieces of %d: %d bytes are given, %d and %d of them unread", piece, first, c.Unread(), c.Look())
		}
		read(peer, first)
		if n := c.Look(); n != 0 {
			t.Errorf("in pieces of %d: of bytes that were read %d are not", piece, n)
		}
		empty()
		if n := give(c, 50, 50); n != 50 || c.Unread() != 50 {
			t.Errorf("of %d bytes %d are unread", n, c.Unread())
		}
		if gone, _ := c.Left(); gone {
			t.Error("it is there, and is said to have left")
		}
		peer.Close()
		for range 2 { // the kernel says it once
			if gone, all := c.Left(); !gone || all {
				t.Errorf("it left with bytes unread: %v, and had read all: %v", gone, all)
			}
			if n, err := c.ReadInto(p, 100); n > 0 || err != io.EOF {
				t.Errorf("of one that has left %d bytes are read, %v", n, err)
			}
		}
		if n := c.Look(); n < 50 {
			t.Errorf("%d bytes are said to be unread by one of whom nobody knows", n)
		}
	}
	peer, c := begin()
	read(peer, give(c, 1000, 1000))
	peer.Close()
	if gone, all := c.Left(); !gone || !all {
		t.Errorf("it left and had read all: %v, %v", gone, all)
	}
}

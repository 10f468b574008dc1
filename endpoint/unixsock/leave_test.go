package unixsock_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/xenchan/xenchan/endpoint/unixsock"
	"github.com/xenchan/xenchan/internal/sys"
)

func mustListen(t *testing.T, cfg unixsock.Config) (*unixsock.Endpoint, *sys.Handle) {
	t.Helper()
	e, err := unixsock.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	h, err := e.Handle()
	if err != nil {
		t.Fatal(err)
	}
	return e, h
}

// One endpoint leaves, another goes on: with who waits, who is served, and the socket.
func TestAdopt(t *testing.T) {
	cfg := unixsock.Config{Path: filepath.Join(t.TempDir(), "s")}
	first, h := mustListen(t, cfg)
	dial := func() net.Conn {
		c, err := net.Dial("unix", cfg.Path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	served, waiting := dial(), dial()
	io.WriteString(served, "served")
	io.WriteString(waiting, "waiting")
	c, err := first.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kept, err := c.Handle()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := first.Leave(); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil { // does no more harm
		t.Fatal(err)
	}

	second, err := unixsock.Adopt(cfg, h, first.ID())
	if err != nil {
		t.Fatal(err)
	}
	if c, err = second.Restore(kept); err != nil {
		t.Fatal(err)
	}
	expect := func(r io.Reader, want string) {
		t.Helper()
		got := make([]byte, len(want))
		if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
			t.Errorf("%q, %v, want %q", got[:n], err, want)
		}
	}
	expect(c, "served")
	io.WriteString(c, "answer")
	expect(served, "answer")
	c.Close()
	if c, err = second.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(c, "waiting")
	c.Close()
	dial()
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(cfg.Path); err == nil {
		t.Error("the socket is still there")
	}
}

func TestAdopt_somethingElseIsThere(t *testing.T) {
	cfg := unixsock.Config{Path: filepath.Join(t.TempDir(), "s")}
	e, h := mustListen(t, cfg)
	if err := os.Rename(cfg.Path, cfg.Path+".old"); err != nil {
		t.Fatal(err)
	}
	if a, err := unixsock.Adopt(cfg, h, e.ID()); err == nil || a != nil {
		t.Error("nothing is there, and it was adopted")
	}
	mustListen(t, cfg)
	if h, err := e.Handle(); err != nil {
		t.Fatal(err)
	} else if a, err := unixsock.Adopt(cfg, h, e.ID()); err == nil || a != nil {
		t.Error("another socket is there, and it was adopted")
	}
}

func TestAdopt_noSocket(t *testing.T) {
	cfg := unixsock.Config{Path: filepath.Join(t.TempDir(), "s")}
	e, h := mustListen(t, cfg)
	h.Close()
	p, err := sys.NewPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if a, err := unixsock.Adopt(cfg, p.Handle(), e.ID()); err == nil || a != nil {
		t.Error("a pipe was adopted as a socket")
	}
}

package pty_test

import (
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/endpoint/pty"
	"github.com/xenchan/xenchan/internal/sys"
)

func leave(t *testing.T, e *pty.Endpoint) *sys.Handle {
	t.Helper()
	h, err := e.Handle()
	if err == nil {
		err = e.Leave()
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func adopt(t *testing.T, h *sys.Handle) *pty.Endpoint {
	t.Helper()
	e, err := pty.Adopt(pty.Config{}, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// One endpoint leaves, another goes on: who has the terminal open does not notice,
// what was written meanwhile comes, and the next client finds the first one's mode.
func TestAdopt(t *testing.T) {
	first, err := pty.Open(pty.Config{})
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(first.Path(), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	h := leave(t, first)
	io.WriteString(tty, "said while nobody\r\n\x03 was there")

	second := adopt(t, h)
	if second.Path() != first.Path() {
		t.Errorf("%s became %s", first.Path(), second.Path())
	}
	c, err := second.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expectFrom(t, c, "said while nobody\r\n\x03 was there")
	io.WriteString(c, "answer\r\n\x04")
	expectFrom(t, tty, "answer\r\n\x04")
	tty.Close()
	c.WaitGone()
	c.Close()

	// Nobody is there when the third takes over; what a client then finds is raw.
	third := adopt(t, leave(t, second))
	tty, err = os.OpenFile(third.Path(), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	var host endpoint.Client
	if host, err = third.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	io.WriteString(tty, "raw\r\n\x03")
	expectFrom(t, host, "raw\r\n\x03")
}

func TestAdopt_noTerminal(t *testing.T) {
	p, err := sys.NewPipe()
	if err != nil {
		t.Fatal(err)
	}
	if e, err := pty.Adopt(pty.Config{}, p.Handle()); err == nil || e != nil {
		t.Error("a pipe was adopted as a terminal")
	}
}

func expectFrom(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Errorf("%q, %v, want %q", got[:n], err, want)
	}
}

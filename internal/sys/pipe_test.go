package sys_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
)

func newPipe(t *testing.T) *sys.Pipe {
	t.Helper()
	p, err := sys.NewPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// stream is a descriptor with bytes both ways.
type stream interface {
	io.ReadWriter
	SetWriteDeadline(time.Time) error
	SyscallConn() (syscall.RawConn, error)
}

func rawConn(t *testing.T, c stream) syscall.RawConn {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return rc
}

// sockets are two connected unix sockets.
func sockets(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	a, h, err := sys.Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = sys.UnixConn(h); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// terminal is a pseudo-terminal in raw mode.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := sys.OpenPTMX()
	if err != nil {
		t.Fatal(err)
	}
	rc := rawConn(t, master)
	if err := sys.UnlockPTY(rc); err != nil {
		t.Fatal(err)
	}
	if slave, err = sys.OpenPTYPeer(rc); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close(); slave.Close() })
	mode, err := sys.GetTermios(rc)
	if err == nil {
		err = sys.SetTermios(rc, sys.RawTermios(mode))
	}
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i) ^ byte(i>>8)*31
	}
	return p
}

// What goes through a pipe is counted by the kernel at every moment: what is not
// in the pipe any more is with the other side, and what is not yet in it is still
// with the side it comes from.
func TestPipe_countsExactly(t *testing.T) {
	for name, ends := range map[string]func(*testing.T) (host, client stream){
		"socket":   func(t *testing.T) (host, client stream) { return sockets(t) },
		"terminal": func(t *testing.T) (host, client stream) { return terminal(t) },
	} {
		t.Run(name+" in", func(t *testing.T) {
			host, client := ends(t)
			pipeIn(t, host, client)
		})
		t.Run(name+" out", func(t *testing.T) {
			host, client := ends(t)
			pipeOut(t, host, client)
		})
	}
}

func pipeIn(t *testing.T, host, client stream) {
	rc, p := rawConn(t, host), newPipe(t)
	want := pattern(9000)
	go client.Write(want)
	var got []byte
	for len(got) < len(want) {
		n, err := p.Fill(rc, 4096)
		if held, lenErr := p.Len(); err != nil || lenErr != nil || n != held || n > 4096 || n == 0 {
			t.Fatalf("Fill moved %d bytes, the pipe holds %d, %v, %v", n, held, err, lenErr)
		}
		for n > 0 { // in parts
			part := make([]byte, min(n, 1500))
			m, err := p.Read(part)
			held, _ := p.Len()
			if n -= m; err != nil || held != n {
				t.Fatalf("read %d, the pipe holds %d and should hold %d, %v", m, held, n, err)
			}
			got = append(got, part[:m]...)
		}
	}
	if !bytes.Equal(got, want) {
		t.Error("other bytes came than the client wrote")
	}
}

// The client does not read: the kernel takes what it has room for.
func pipeOut(t *testing.T, host, client stream) {
	rc, p := rawConn(t, host), newPipe(t)
	want := pattern(400_000)
	loaded, moved := 0, 0
	for stuck := false; !stuck; {
		n, err := p.Write(want[loaded : loaded+16<<10])
		if err != nil {
			t.Fatal(err)
		}
		loaded += n
		host.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		n, err = p.EmptyUntilHangup(rc)
		if stuck = errors.Is(err, os.ErrDeadlineExceeded); !stuck && err != nil {
			t.Fatal(err)
		}
		moved += n
		if held, _ := p.Len(); held != loaded-moved {
			t.Fatalf("of %d bytes %d moved and the pipe holds %d", loaded, moved, held)
		}
	}
	got := make([]byte, moved)
	for n := 0; n < moved; {
		m, err := client.Read(got[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if moved == 0 || !bytes.Equal(got, want[:moved]) {
		t.Errorf("other bytes arrived than the %d that were moved", moved)
	}
}

func TestPipe_leftEnd(t *testing.T) {
	p := newPipe(t)
	host, client := sockets(t)
	rc := rawConn(t, host)
	if _, err := p.FillNow(rc, 10); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("nothing was sent: %v", err)
	}
	client.Write([]byte("last"))
	client.Close()
	if n, err := p.Fill(rc, 10); n != 4 || err != nil {
		t.Errorf("last words: %d, %v", n, err)
	}
	if n, err := p.Empty(rc); n > 0 || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("to nobody: %d, %v", n, err)
	}
	if n, err := p.Len(); n != 4 || err != nil {
		t.Errorf("what could not be moved is gone: %d, %v", n, err)
	}
	p.Read(make([]byte, 10))
	if n, err := p.Fill(rc, 10); n != 0 || err != nil {
		t.Errorf("the end: %d, %v", n, err)
	}
	host.Close()
	if _, err := p.Fill(rc, 10); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestPipe_takenOver(t *testing.T) {
	p := newPipe(t)
	p.Write([]byte("kept"))
	carrier, other := sockets(t)
	if err := sys.SendMsg(carrier, []byte("x"), p.Handle()); err != nil {
		t.Fatal(err)
	}
	p.Close()
	_, hs, err := sys.RecvMsg(other, make([]byte, 10), 1)
	if err != nil {
		t.Fatal(err)
	}
	q, err := sys.PipeOf(hs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if n, err := q.Len(); n != 4 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	got := make([]byte, 10)
	if n, err := q.Read(got); string(got[:n]) != "kept" || err != nil {
		t.Errorf("%q, %v", got[:n], err)
	}
	_, h, err := sys.Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sys.PipeOf(h); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a socket for a pipe: %v", err)
	}
}

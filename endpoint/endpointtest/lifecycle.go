package endpointtest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

func leaveWhileWriteBlocks(t *testing.T, h Harness) {
	p := newPair(t, h)
	defer p.close(t)
	sent := start(t, "Write", writeAll(p.host, stream(4<<20, 8)))
	gone := start(t, "WaitGone", func() bool { p.host.WaitGone(); return true })
	time.Sleep(pause)
	if p.host.Gone() {
		t.Error("gone while Write blocks")
	}
	_ = p.raw.Close()
	gone()
	if r := sent(); !errors.Is(r.err, syscall.EPIPE) {
		t.Errorf("Write: %d, %v, want EPIPE", r.n, r.err)
	}
}

// leaveGone is the truth table of Gone and WaitGone.
func leaveGone(t *testing.T, h Harness) {
	p := newPair(t, h)
	defer p.close(t)
	if p.host.Gone() {
		t.Error("gone while connected")
	}
	if r := writeAll(p.raw, []byte("left behind"))(); r.err != nil {
		t.Fatal(r.err)
	}
	if p.host.Gone() {
		t.Error("gone with bytes to read")
	}
	gone := start(t, "WaitGone", func() bool { p.host.WaitGone(); return true })
	time.Sleep(pause)
	_ = p.raw.Close()
	gone()
	if !p.host.Gone() {
		t.Error("not gone after it left")
	}
	p.host.WaitGone() // at once
	if _, err := p.host.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write: %v, want EPIPE", err)
	}
	if got := string(readAll(t, p.host)); got != "left behind" {
		t.Errorf("read %q from a client that is gone", got)
	}
	if !p.host.Gone() {
		t.Error("not gone after EOF")
	}
	_ = p.host.Close()
	if !p.host.Gone() {
		t.Error("not gone after Close")
	}
	p.host.WaitGone() // at once
}

func turnMany(t *testing.T, h Harness) {
	ep := h.New(t)
	defer ep.Close()
	for i := range 200 {
		raw := h.Dial(t, ep.Path())
		host := accept(t, ep)
		want := []byte{byte(i), byte(i >> 8), '\r', '\n', 3, 4, 17, 19, 0, 255}
		if r := writeAll(raw, want)(); r.err != nil {
			t.Fatal(r.err)
		}
		if r := writeAll(host, want)(); r.err != nil {
			t.Fatal(r.err)
		}
		same(t, "to the client", readFull(t, raw, len(want)), want)
		_ = raw.Close()
		same(t, "from the client", readAll(t, host), want)
		_ = host.Close()
		if t.Failed() {
			t.Fatalf("at client %d", i)
		}
	}
}

func turnSecond(t *testing.T, h Harness) {
	p := newPair(t, h)
	defer p.close(t)
	second := h.Dial(t, p.ep.Path())
	defer second.Close()
	if r := writeAll(second, []byte("second"))(); r.err != nil {
		t.Fatal(r.err)
	}
	if !h.Shared {
		_ = p.raw.Close()
		if rest := readAll(t, p.host); len(rest) > 0 {
			t.Errorf("the first client sent %q", rest)
		}
		host := accept(t, p.ep)
		defer host.Close()
		same(t, "from the second client", readFull(t, host, 6), []byte("second"))
		return
	}
	noAccept(t, p.ep)
	same(t, "from the second opener", readFull(t, p.host, 6), []byte("second"))
	_ = p.raw.Close()
	time.Sleep(pause)
	if p.host.Gone() {
		t.Error("gone while the second one is there")
	}
	// The one who is still there becomes the next client at once.
	_ = p.host.Close()
	host := accept(t, p.ep)
	defer host.Close()
	if r := writeAll(second, []byte("again"))(); r.err != nil {
		t.Fatal(r.err)
	}
	same(t, "from the same opener", readFull(t, host, 5), []byte("again"))
	_ = second.Close()
	host.WaitGone()
}

func acceptCancelled(t *testing.T, h Harness) {
	ep := h.New(t)
	defer ep.Close()
	ctx, cancel := context.WithCancel(context.Background())
	waiting := start(t, "Accept", func() error {
		_, err := ep.Accept(ctx)
		return err
	})
	time.Sleep(pause)
	cancel()
	if err := waiting(); !errors.Is(err, context.Canceled) {
		t.Errorf("Accept: %v, want Canceled", err)
	}
	if _, err := ep.Accept(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Accept again: %v, want Canceled", err)
	}
	raw := h.Dial(t, ep.Path())
	defer raw.Close()
	accept(t, ep).Close()
}

func acceptClosed(t *testing.T, h Harness) {
	ep := h.New(t)
	waiting := start(t, "Accept", func() error {
		_, err := ep.Accept(context.Background())
		return err
	})
	time.Sleep(pause)
	if err := ep.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := waiting(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v, want ErrClosed", err)
	}
	if _, err := ep.Accept(context.Background()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept again: %v, want ErrClosed", err)
	}
	if _, err := os.Lstat(ep.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", ep.Path(), err)
	}
}

func closeWakesClient(t *testing.T, h Harness) {
	p := newPair(t, h)
	defer p.close(t)
	writing := start(t, "Write", writeAll(p.host, stream(4<<20, 9)))
	reading := start(t, "Read", func() result {
		n, err := p.host.Read(make([]byte, 1))
		return result{n, err}
	})
	time.Sleep(pause)
	if err := p.host.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	for what, r := range map[string]result{"Write": writing(), "Read": reading()} {
		if !errors.Is(r.err, net.ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", what, r.err)
		}
	}
	if _, err := p.host.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read again: %v, want ErrClosed", err)
	}
	if _, err := p.host.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write again: %v, want ErrClosed", err)
	}
	if !p.host.Gone() {
		t.Error("not gone after Close")
	}
	// Closing it did no harm to those who come later.
	_ = p.raw.Close()
	raw := h.Dial(t, p.ep.Path())
	defer raw.Close()
	host := accept(t, p.ep)
	defer host.Close()
	if r := writeAll(raw, []byte("later"))(); r.err != nil {
		t.Fatal(r.err)
	}
	same(t, "from the next client", readFull(t, host, 5), []byte("later"))
}

func closeTwice(t *testing.T, h Harness) {
	p := newPair(t, h)
	reading := start(t, "Read", func() error {
		_, err := io.Copy(io.Discard, p.host)
		return err
	})
	for _, c := range []io.Closer{p.ep, p.ep, p.raw, p.host} {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	reading() // whatever it says: the endpoint may take its clients with it
	_ = p.host.Close()
	p.host.WaitGone()
}

package endpointtest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// stream is n bytes with every value in it, different for each seed.
func stream(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// same compares by checksum, so that a failure does not print a megabyte.
func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if sha256.Sum256(got) == sha256.Sum256(want) {
		return
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	t.Errorf("%s: got %d bytes, want %d; they differ from byte %d on", what, len(got), len(want), at)
}

func writeAll(w io.Writer, b []byte) func() result {
	return func() result {
		n, err := w.Write(b)
		return result{n, err}
	}
}

func readFull(t *testing.T, r io.Reader, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	n, err := io.ReadFull(r, b)
	if err != nil {
		t.Errorf("read %d of %d bytes: %v", n, len(b), err)
	}
	return b[:n]
}

func readAll(t *testing.T, r io.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("read after %d bytes: %v", len(b), err)
	}
	return b
}

func transferBothWays(t *testing.T, h Harness) {
	p := newPair(t, h)
	defer p.close(t)
	up, down := stream(2<<20, 1), stream(2<<20, 2)
	sent := start(t, "the client's Write", writeAll(p.raw, up))
	served := start(t, "Write", writeAll(p.host, down))
	received := start(t, "the client's Read", func() []byte { return readFull(t, p.raw, len(down)) })
	same(t, "from the client", readFull(t, p.host, len(up)), up)
	same(t, "to the client", received(), down)
	for _, r := range []result{sent(), served()} {
		if r.err != nil || r.n != len(up) {
			t.Errorf("Write: %d, %v", r.n, r.err)
		}
	}
	_ = p.raw.Close()
	if rest := readAll(t, p.host); len(rest) > 0 {
		t.Errorf("%d bytes too many", len(rest))
	}
}

func transferWrittenAndLeft(t *testing.T, h Harness) {
	ep := h.New(t)
	defer ep.Close()
	want := stream(64<<10, 3)
	raw := h.Dial(t, ep.Path())
	left := start(t, "the client's Write", func() result {
		defer raw.Close()
		return writeAll(raw, want)()
	})
	host := accept(t, ep)
	defer host.Close()
	time.Sleep(pause)
	same(t, "from a client that left at once", readAll(t, host), want)
	if r := left(); r.err != nil {
		t.Error(r.err)
	}
	if _, err := host.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read again: %v, want EOF", err)
	}
	_ = host.Close()
	noAccept(t, ep)
}

func transferLeftBeforeAccept(t *testing.T, h Harness) {
	ep := h.New(t)
	defer ep.Close()
	want := stream(4<<10, 4)
	raw := h.Dial(t, ep.Path())
	if r := writeAll(raw, want)(); r.err != nil {
		t.Fatal(r.err)
	}
	_ = raw.Close()
	host := accept(t, ep)
	defer host.Close()
	if !host.Gone() {
		t.Error("the client is not gone")
	}
	same(t, "from a client that left before Accept", readAll(t, host), want)
}

// transferSlowClient: a client that does not read holds Write up, and loses nothing.
func transferSlowClient(t *testing.T, h Harness) {
	p := newPair(t, h)
	defer p.close(t)
	blocked(t, p.host, p.raw)
}

// transferSlowHost: the same the other way round.
func transferSlowHost(t *testing.T, h Harness) {
	p := newPair(t, h)
	defer p.close(t)
	blocked(t, p.raw, p.host)
}

func blocked(t *testing.T, w io.Writer, r io.Reader) {
	t.Helper()
	want := stream(2<<20, 5)
	var taken atomic.Int64
	sent := start(t, "Write", func() result {
		for rest := want; len(rest) > 0; {
			n, err := w.Write(rest[:min(1000, len(rest))])
			taken.Add(int64(n))
			rest = rest[n:]
			if err != nil {
				return result{int(taken.Load()), err}
			}
		}
		return result{len(want), nil}
	})
	settled := int64(-1)
	eventually(t, "Write blocks", func() bool {
		time.Sleep(pause)
		before := settled
		settled = taken.Load()
		return before == settled
	})
	if settled == int64(len(want)) {
		t.Fatalf("all %d bytes were taken with nobody reading", settled)
	}
	same(t, "after a pause", readFull(t, r, len(want)), want)
	if res := sent(); res.err != nil {
		t.Error(res.err)
	}
}

func transferHalfClosed(t *testing.T, h Harness) {
	p := newPair(t, h)
	defer p.close(t)
	half, ok := p.raw.(interface{ CloseWrite() error })
	if !ok {
		return // there is no such thing here
	}
	want := stream(8<<10, 6)
	if r := writeAll(p.raw, want)(); r.err != nil {
		t.Fatal(r.err)
	}
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	same(t, "from the client", readAll(t, p.host), want)
	gone := start(t, "WaitGone", func() bool { p.host.WaitGone(); return true })
	if p.host.Gone() {
		t.Error("a half-closed client is gone")
	}
	if r := writeAll(p.host, want)(); r.err != nil {
		t.Error(r.err)
	}
	same(t, "to a half-closed client", readFull(t, p.raw, len(want)), want)
	if p.host.Gone() {
		t.Error("a half-closed client is gone after Write")
	}
	_ = p.raw.Close()
	gone()
	if _, err := p.host.Write(want); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write: %v, want EPIPE", err)
	}
}

func leaveInTheMiddle(t *testing.T, h Harness) {
	p := newPair(t, h)
	defer p.close(t)
	want := stream(1<<20, 7)
	sent := start(t, "Write", func() result {
		for {
			if r := writeAll(p.host, want)(); r.err != nil {
				return r
			}
		}
	})
	got := readFull(t, p.raw, 100<<10)
	_ = p.raw.Close()
	if !bytes.HasPrefix(want, got) {
		t.Error("the bytes before differ")
	}
	if r := sent(); !errors.Is(r.err, syscall.EPIPE) {
		t.Errorf("Write: %v, want EPIPE", r.err)
	}
	if rest := readAll(t, p.host); len(rest) > 0 {
		t.Errorf("%d bytes from a client that sent none", len(rest))
	}
}

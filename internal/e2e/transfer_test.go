package e2e

import (
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sim"
)

// sizeMiB is how much goes each way: the promised 64 MiB, except where the race
// detector makes everything slow.
func sizeMiB(whole, race int) int {
	if raceEnabled {
		return race
	}
	return whole
}

// random is a stream of n bytes and the place for its checksum.
func random(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

func sum(r io.Reader, n int64) ([32]byte, error) {
	h := sha256.New()
	_, err := io.CopyN(h, r, n)
	return [32]byte(h.Sum(nil)), err
}

// both moves n random bytes each way at the same time.
func (h *host) both(guest *os.File, client io.ReadWriter, n int64) {
	h.t.Helper()
	begin := time.Now()
	results := make(chan error, 4)
	send := func(w io.Writer, seed byte) {
		_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{random(seed, n)}, make([]byte, 32<<10))
		results <- err
	}
	receive := func(r io.Reader, seed byte) {
		want, _ := sum(random(seed, n), n)
		got, err := sum(r, n)
		if err == nil && got != want {
			err = errors.New("the checksums differ")
		}
		results <- err
	}
	go send(guest, 1)
	go send(client, 2)
	go receive(client, 1)
	go receive(guest, 2)
	for range 4 {
		if err := <-results; err != nil {
			h.t.Error(err)
		}
	}
	h.t.Logf("%d bytes each way in %v", n, time.Since(begin).Round(time.Millisecond))
}

// With overflow=block nothing is lost however slow the client is; otherwise a
// guest that is faster than its client for long enough overflows the spool.
func TestTransfer_socket(t *testing.T) {
	busy := channel.Spec{Name: "busy", Connection: channel.Socket, Overflow: channel.Block}
	h := start(t, sim.Domain{Name: "web", Channels: []channel.Spec{busy, socket("idle.1"), socket("idle.2")}})
	c := h.channel("web", "busy")
	n := int64(sizeMiB(64, 16)) << 20
	h.both(h.inGuest("web", "busy"), h.onHost(c), n)
	if s := h.row(c); s.GuestToHost != uint64(n) || s.HostToGuest != uint64(n) || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
	for _, name := range []string{"idle.1", "idle.2"} {
		idle := h.channel("web", name)
		if s := h.row(idle); s.GuestToHost+s.HostToGuest != 0 {
			t.Errorf("an idle channel moved bytes: %+v", s)
		}
		guest, client := h.inGuest("web", name), h.onHost(idle)
		h.say(client, guest, "still there?")
		h.say(guest, client, "yes")
	}
}

func TestTransfer_pty(t *testing.T) {
	h := start(t, sim.Domain{Name: "web", Channels: []channel.Spec{{Name: "con", Connection: channel.PTY, Overflow: channel.Block}}})
	c := h.channel("web", "con")
	n := int64(sizeMiB(64, 8)) << 20 // the line discipline is slow
	h.both(h.inGuest("web", "con"), h.open(c.TTY), n)
	if s := h.row(c); s.GuestToHost != uint64(n) || s.HostToGuest != uint64(n) || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

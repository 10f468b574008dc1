package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/xenstore"
)

// back is how long after a kill a guest's bytes may reach a client again: a promise
// of 100 ms, and ten times that on a machine that has other things to do.
const back = time.Second

// After a kill the daemon is back soon. What is measured is what a client and a
// guest feel: the time from the kill of the daemon until a byte that the guest says
// right after it, and the guest's answer to the client, have come.
func TestDaemon_isBackSoon(t *testing.T) {
	h := start(t, sim.Domain{Name: "web", Channels: []channel.Spec{socket("a"), socket("b"), {Name: "con", Connection: channel.PTY}}})
	guest, client := h.inGuest("web", "a"), h.onHost(h.channel("web", "a"))
	h.say(guest, client, "before")
	var took []time.Duration
	for range 20 {
		pid := h.pid("daemon")
		time.Sleep(150 * time.Millisecond) // it has settled, as one that runs for months has
		begin := time.Now()
		h.check(syscall.Kill(pid, syscall.SIGKILL))
		h.say(guest, client, "?")
		h.say(client, guest, "!")
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("from the kill to a byte each way: median %v, worst %v of %d", took[len(took)/2], took[len(took)-1], len(took))
	if took[len(took)/2] > back {
		t.Errorf("a daemon is to be back in 100 ms, and on a busy machine in %v: %v", back, took)
	}
}

// Nobody outside notices a restart: the socket, the terminal and who waits for his
// turn are the same before and after, however the daemon ends.
func TestDaemon_placesStay(t *testing.T) {
	h := start(t, sim.Domain{Name: "web", Channels: []channel.Spec{socket("a"), {Name: "con", Connection: channel.PTY}}})
	a, con := h.channel("web", "a"), h.channel("web", "con")
	before, err := os.Lstat(a.Path)
	h.check(err)
	guest, guestCon := h.inGuest("web", "a"), h.inGuest("web", "con")
	first, tty := h.onHost(a), h.open(con.TTY)
	h.say(guest, first, "first")
	second := h.onHost(a) // waits its turn, with its first words said
	_, err = io.WriteString(second, "second")
	h.check(err)
	last := 0
	for _, how := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGABRT, syscall.SIGKILL} {
		h.eventually("another daemon", func() bool { now := h.pid("daemon"); return now != last && runs(now) })
		h.say(guest, first, "still the first")
		h.say(first, guest, "still here")
		h.say(guestCon, tty, "terminal")
		h.say(tty, guestCon, "terminal")
		last = h.pid("daemon")
		h.check(syscall.Kill(last, how))
	}
	h.eventually("the last daemon", func() bool { now := h.pid("daemon"); return now != last && runs(now) })
	h.say(guest, first, "the first to the end")
	if after, err := os.Lstat(a.Path); err != nil || !os.SameFile(before, after) {
		t.Errorf("the socket is another one, %v", err)
	}
	if now := h.channel("web", "con").TTY; now != con.TTY {
		t.Errorf("the terminal was %s and is %s", con.TTY, now)
	}
	if s := h.row(a); s.Clients != 1 || s.Waiting == nil || *s.Waiting != 1 {
		t.Errorf("who is there: %+v", s)
	}
	h.check(first.Close())
	got := make([]byte, len("second"))
	if _, err := io.ReadFull(guest, got); err != nil || string(got) != "second" {
		t.Errorf("of the second the guest reads %q, %v", got, err)
	}
	h.say(guest, second, "now the second")
}

// A client that has left before a kill, with bytes for a guest that does not read
// yet, is still heard, and in its turn.
func TestDaemon_killedWithClientsThatHaveLeft(t *testing.T) {
	h := start(t, sim.Domain{Name: "web", Channels: []channel.Spec{socket("a")}})
	c := h.channel("web", "a")
	guest := h.inGuest("web", "a") // open, or its first bytes would meet a terminal in line mode
	var want []byte
	for i := range 3 {
		p := make([]byte, 100_000)
		rand.NewChaCha8([32]byte{byte(i)}).Read(p)
		want = append(want, p...)
		client := h.onHost(c)
		_, err := client.Write(p)
		h.check(err)
		h.check(client.Close())
		// A connection ends with the daemon in the moment between its being accepted
		// and its being kept.
		h.eventually("it is accepted", func() bool { s := h.row(c); return s.HostToGuest > 0 && *s.Waiting == 0 })
		time.Sleep(50 * time.Millisecond)
		pid := h.pid("daemon")
		h.check(syscall.Kill(pid, syscall.SIGKILL))
		h.eventually("another daemon", func() bool { now := h.pid("daemon"); return now != pid && runs(now) })
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(guest, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes came, or others, %v", n, len(want), err)
	}
	h.say(guest, h.onHost(c), "and the channel goes on")
}

// A channel that takes the place of another while no daemon looks, with the same name
// and number, has none of its clients.
func TestDaemon_killedAndAnotherChannel(t *testing.T) {
	h := start(t, sim.Domain{Name: "web", Channels: []channel.Spec{socket("a")}})
	c := h.channel("web", "a")
	old := h.onHost(c)
	h.say(h.inGuest("web", "a"), old, "hello")
	pid := h.pid("daemon")
	h.check(syscall.Kill(pid, syscall.SIGSTOP))
	ctx := t.Context()
	h.check(h.store.Tx(ctx, func(tx *xenstore.Tx) error {
		libxl := fmt.Sprintf("/libxl/%d/device/console/%d", c.DomID, c.DevID)
		return errors.Join(tx.Remove(ctx, c.Frontend), tx.Remove(ctx, c.Backend), tx.Remove(ctx, libxl))
	}))
	tty := filepath.Join(sim.GuestDir(h.dir, "web"), "a")
	h.eventually("the guest has let go", func() bool { return !exists(tty) })
	dom, err := h.tools.Resolve(ctx, "web")
	h.check(err)
	again, err := h.tools.Attach(ctx, dom, socket("a"))
	h.check(err)
	if again.DevID != c.DevID || again.Path != c.Path {
		t.Fatalf("%+v is not in the place of %+v", again, c)
	}
	h.check(syscall.Kill(pid, syscall.SIGKILL))
	old.SetDeadline(time.Now().Add(20 * time.Second))
	if n, err := old.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Fatalf("the client of the channel that was there reads %d bytes, %v", n, err)
	}
	guest := h.inGuest("web", "a")
	h.say(guest, h.onHost(again), "for the new one")
}

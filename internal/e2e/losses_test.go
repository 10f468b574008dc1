package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/toolstack"
)

// The cases in which the stock backend, QEMU's, loses bytes, strands them until the
// guest says something more, or hands them to the wrong client. Each runs with a
// channel of its own and, where it does not say otherwise, the default spool of 4 MiB.

// soon is how long a guest may take for a write that nothing holds up, on a machine
// that has other things to do.
const soon = 20 * time.Second

type lossCase struct {
	*host
	c     toolstack.Channel
	guest *os.File
	sent  []byte
}

func (l *lossCase) guestWrites(n int) {
	l.t.Helper()
	f := &flow{seed: 7}
	p := make([]byte, n)
	f.fill(p, int64(len(l.sent)))
	l.sent = append(l.sent, p...)
	begin := time.Now()
	_, err := l.guest.Write(p)
	l.check(err)
	if took := time.Since(begin); took > soon {
		l.t.Errorf("the guest was held up for %v", took)
	}
	l.eventually("all is out of the ring", func() bool { return l.row(l.c).GuestToHost == uint64(len(l.sent)) })
}

// expect reads what the guest has sent from a position on, to its end.
func (l *lossCase) expect(r io.Reader, from int) {
	l.t.Helper()
	got := make([]byte, len(l.sent)-from)
	if n, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, l.sent[from:]) {
		l.t.Fatalf("%d of %d bytes came, or others, %v", n, len(got), err)
	}
	if s := l.row(l.c); s.Dropped != 0 {
		l.t.Errorf("%d bytes are counted as dropped", s.Dropped)
	}
}

func TestLosses(t *testing.T) {
	cases := []struct {
		name string
		spec string // beyond the default
		run  func(l *lossCase)
	}{
		{"late client", "", func(l *lossCase) { // QEMU: nothing until the guest writes again
			l.guestWrites(64 << 10)
			l.expect(l.onHost(l.c), 0)
		}},
		{"late client of a lot", "", func(l *lossCase) {
			l.guestWrites(1 << 20)
			l.expect(l.onHost(l.c), 0)
		}},
		{"slow client", "", func(l *lossCase) { // QEMU: 220 to 465 kB of 1 MB, then nothing
			client := l.onHost(l.c)
			l.guestWrites(1 << 20)
			l.expect(slow{client, 4 << 10, 2 * time.Millisecond}, 0)
		}},
		{"stalled client", "", func(l *lossCase) { // QEMU: 100 kB of 1 MB
			client := l.onHost(l.c)
			l.guestWrites(1 << 20)
			time.Sleep(time.Second)
			l.expect(client, 0)
		}},
		{"stalled client, 3 MB and ten words more", "", func(l *lossCase) { // QEMU: 2.0 MB gone in silence
			client := l.onHost(l.c)
			l.guestWrites(3 << 20)
			for range 10 {
				l.guestWrites(10)
			}
			l.expect(client, 0)
		}},
		{"the same with a spool of 1 MiB", "spool=1MiB", countedLoss},
		{"terminal: leaves after 200 kB of 1 MB, comes back", "connection=pty", func(l *lossCase) { // QEMU: nothing
			tty := l.channel("web", l.c.Name).TTY
			first := l.open(tty)
			l.guestWrites(1 << 20)
			got := make([]byte, 200_000)
			_, err := io.ReadFull(first, got)
			l.check(err)
			l.check(first.Close())
			if !bytes.Equal(got, l.sent[:len(got)]) {
				l.t.Error("other bytes")
			}
			l.expect(l.open(tty), len(got))
		}},
		{"socket: leaves after 200 kB of 1 MB, comes back", "", leavesAndComesBack},
		{"writes 64 KiB and closes", "", func(l *lossCase) { writesAndCloses(l, 64<<10) }}, // QEMU: 62 KiB lost
		{"writes 1 MiB and closes", "", func(l *lossCase) { writesAndCloses(l, 1<<20) }},
		{"slow guest", "", func(l *lossCase) { // exact with QEMU too
			client := l.onHost(l.c)
			go client.Write(pattern(256 << 10))
			got := make([]byte, 256<<10)
			_, err := io.ReadFull(slow{l.guest, 1 << 10, time.Millisecond}, got)
			if l.check(err); !bytes.Equal(got, pattern(256<<10)) {
				l.t.Error("other bytes")
			}
		}},
	}
	h := start(t, sim.Domain{Name: "web"})
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			name := fmt.Sprint("case.", i)
			spec := "connection=socket,"
			if c.spec == "connection=pty" {
				spec = ""
			}
			here := *h
			here.t = t
			here.xenchan("attach", "web", spec+"name="+name+","+c.spec, "--wait")
			l := &lossCase{host: &here, c: here.channel("web", name), guest: here.inGuest("web", name)}
			c.run(l)
			l.guest.Close()
			here.xenchan("detach", "web", name)
		})
	}
}

// slow reads little at a time, with a pause after each.
type slow struct {
	io.Reader
	most  int
	pause time.Duration
}

func (s slow) Read(p []byte) (int, error) {
	defer time.Sleep(s.pause)
	return s.Reader.Read(p[:min(len(p), s.most)])
}

func writesAndCloses(l *lossCase, n int) {
	client := l.onHost(l.c)
	read := make(chan []byte)
	go func() {
		got := make([]byte, n)
		m, _ := io.ReadFull(l.guest, got)
		read <- got[:m]
	}()
	_, err := client.Write(pattern(n))
	l.check(err)
	l.check(client.Close())
	if got := <-read; !bytes.Equal(got, pattern(n)) {
		l.t.Errorf("the guest has %d of %d bytes, or others", len(got), n)
	}
}

// countedLoss overflows the spool: each byte that does not come is counted, with its place.
func countedLoss(l *lossCase) {
	client := l.onHost(l.c)
	l.guestWrites(3 << 20)
	var s struct {
		dropped uint64
		losses  []channel.Loss
	}
	l.eventually("the losses are told", func() bool {
		row := l.row(l.c)
		s.dropped, s.losses = row.Dropped, row.Losses
		var sum int64
		for _, x := range s.losses {
			sum += x.Bytes
		}
		return s.dropped > 0 && uint64(sum) == s.dropped
	})
	at := int64(0)
	for _, x := range append(s.losses, channel.Loss{From: int64(len(l.sent)), To: int64(len(l.sent))}) {
		got := make([]byte, x.From-at)
		if n, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, l.sent[at:x.From]) {
			l.t.Fatalf("from %d to the loss at %d there come %d bytes, or others, %v", at, x.From, n, err)
		}
		at = x.To
	}
	l.t.Logf("of %d bytes %d were dropped, in %d places", len(l.sent), s.dropped, len(s.losses))
}

// leavesAndComesBack: what the first client has not read is for the next, and of what it
// has read the last of what was in its socket comes again.
func leavesAndComesBack(l *lossCase) {
	first := l.onHost(l.c)
	l.guestWrites(1 << 20)
	got := make([]byte, 200_000)
	_, err := io.ReadFull(first, got)
	if l.check(err); !bytes.Equal(got, l.sent[:len(got)]) {
		l.t.Error("other bytes")
	}
	l.check(first.Close())
	l.eventually("it has left", func() bool { return l.row(l.c).Clients == 0 })
	from := len(l.sent) - int(l.row(l.c).Spooled)
	if twice := len(got) - from; twice < 0 || twice > oneWrite {
		l.t.Errorf("after %d bytes those from %d on wait for the next client", len(got), from)
	} else {
		l.t.Logf("%d bytes come again", twice)
	}
	l.expect(l.onHost(l.c), from)
}

func pattern(n int) []byte {
	p := make([]byte, n)
	(&flow{seed: 3}).fill(p, 0)
	return p
}

package daemon_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/endpoint/pty"
	"github.com/xenchan/xenchan/endpoint/unixsock"
)

// A client that comes late gets all that was said before, without waiting for
// the guest to say something more.
func TestClient_comesLate(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	want := pattern(300_000)
	r.write(guest, want)
	client := r.dial(c.Path)
	r.expect(client, want)
	s := r.row(c)
	if s.GuestToHost != 300_000 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
	r.eventually("delivered", func() bool { return r.row(c).Spooled == 0 })
}

func TestClient_noneAndOverflow(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a", Spool: 10_000})
	guest := r.boot(c)
	want := pattern(123_456)
	r.write(guest, want) // does not block
	r.eventually("all taken", func() bool { return r.row(c).GuestToHost == 123_456 })
	s := r.row(c)
	if s.Spooled != 10_000 || s.Dropped != 113_456 {
		t.Errorf("%+v", s)
	}
	r.expect(r.dial(c.Path), want[113_456:])
}

// A client that stops reading loses the oldest bytes, and each of them is counted.
func TestClient_stallsAndOverflow(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a", Spool: 50_000})
	guest := r.boot(c)
	client := r.dial(c.Path)
	r.eventually("connected", func() bool { return r.row(c).Clients == 1 })
	want := pattern(2_000_000)
	sent := 0
	for stuck := false; !stuck; { // fill the socket's buffer, slowly enough to lose nothing
		r.write(guest, want[sent:sent+10_000])
		sent += 10_000
		for i := 0; ; i++ {
			if s := r.row(c); s.GuestToHost == uint64(sent) && s.Spooled == 0 {
				break
			}
			time.Sleep(time.Millisecond)
			if stuck = i > 50; stuck {
				break
			}
		}
	}
	if n := r.row(c).Dropped; n > 0 {
		t.Fatalf("%d bytes dropped before there were too many", n)
	}
	r.write(guest, want[sent:])
	r.eventually("all taken", func() bool { return r.row(c).GuestToHost == uint64(len(want)) })
	dropped := int(r.row(c).Dropped)
	got := make([]byte, len(want)-dropped)
	if _, err := io.ReadFull(client, got); err != nil {
		t.Fatal(err)
	}
	if now := int(r.row(c).Dropped); dropped == 0 || now != dropped {
		t.Errorf("%d dropped while it stood still, %d later", dropped, now)
	}
	client.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, _ := client.Read(make([]byte, 1)); n != 0 {
		t.Error("there are more bytes than were counted")
	}
	at := 0 // where the one gap is
	for at < len(got) && got[at] == want[at] {
		at++
	}
	if !bytes.Equal(got[at:], want[at+dropped:]) {
		t.Error("more than one gap, or other bytes")
	}
}

// guestWaits is what the daemon promises at least, less a little.
const guestWaits = 45 * time.Millisecond

// A guest that is faster than its client is held back a little before bytes are lost.
func TestClient_theGuestWaitsForIt(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a", Spool: 4096})
	guest := r.boot(c)
	client := r.dial(c.Path)
	r.write(guest, []byte("hello"))
	r.expect(client, []byte("hello"))
	begin := time.Now()
	r.write(guest, pattern(100_000)) // more than the socket and the pipe take
	r.eventually("all taken", func() bool { return r.row(c).GuestToHost == 100_005 })
	if took, s := time.Since(begin), r.row(c); took < guestWaits || s.Dropped == 0 {
		t.Errorf("bytes were dropped after %v: %+v", took, s)
	}
}

func TestClient_overflowBlock(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a", Spool: 4096, Overflow: channel.Block})
	guest := r.boot(c)
	want := pattern(500_000)
	done := make(chan error, 1)
	go func() { _, err := guest.Write(want); done <- err }()
	r.eventually("the spool is full", func() bool { return r.row(c).Spooled == 4096 })
	select {
	case err := <-done:
		t.Fatalf("the guest was not stopped: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	r.expect(r.dial(c.Path), want)
	r.check(<-done)
	if s := r.row(c); s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

// A program writes and is done, long before the guest reads.
func TestClient_writesAndLeaves(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	want := pattern(64 << 10)
	client := r.dial(c.Path)
	r.write(client, want)
	client.Close()
	time.Sleep(300 * time.Millisecond) // longer than the daemon's patience
	r.expect(guest, want)
	r.eventually("counted", func() bool { s := r.row(c); return s.HostToGuest == 64<<10 && s.Clients == 0 })
}

// The same before there is any guest.
func TestClient_writesBeforeTheGuestBoots(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	client := r.dial(c.Path)
	r.write(client, []byte("first words"))
	client.Close()
	time.Sleep(20 * time.Millisecond)
	r.expect(r.boot(c), []byte("first words"))
}

func TestClient_halfClosedGetsTheAnswer(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	client := r.dial(c.Path)
	r.write(client, []byte("question"))
	r.check(client.CloseWrite())
	r.expect(guest, []byte("question"))
	time.Sleep(20 * time.Millisecond)
	answer := pattern(100_000)
	r.write(guest, answer)
	r.expect(client, answer)
	if n := r.row(c).Clients; n != 1 {
		t.Errorf("%d clients", n)
	}
	client.Close()
	r.eventually("gone", func() bool { return r.row(c).Clients == 0 })
}

func TestClient_theSecondWaitsItsTurn(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	first := r.dial(c.Path)
	r.write(first, []byte("<first"))
	r.expect(guest, []byte("<first"))
	second := r.dial(c.Path)
	r.write(second, []byte("<second>"))
	time.Sleep(20 * time.Millisecond)
	r.write(first, []byte(">"))
	r.write(guest, []byte("to the first"))
	r.expect(first, []byte("to the first"))
	if n := r.row(c).Clients; n != 1 {
		t.Errorf("%d clients are served", n)
	}
	first.Close()
	r.expect(guest, []byte("><second>"))
	r.write(guest, []byte("to the second"))
	r.expect(second, []byte("to the second"))
}

// Who leaves with bytes for a guest that does not read is no obstacle for the
// next one, whose own bytes come after.
func TestClient_leavesWhileTheGuestDoesNotRead(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	big := pattern(20_000) // twenty rings full
	first := r.dial(c.Path)
	r.write(first, big)
	first.Close()

	second := r.dial(c.Path)
	r.write(second, []byte("second"))
	r.write(guest, []byte("hello"))
	r.expect(second, []byte("hello"))
	second.Close() // has not had its turn to send yet

	third := r.dial(c.Path)
	r.write(third, []byte("third"))
	time.Sleep(600 * time.Millisecond) // until it is noticed that the second has left
	r.write(guest, []byte("to the third"))
	r.expect(third, []byte("to the third"))

	r.expect(guest, big)
	r.expect(guest, []byte("secondthird"))
}

// A client that comes and goes while others' bytes are in front of its own is
// not taken for one that is still there.
func TestClient_leavesBeforeItsTurn(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	r.boot(c)
	first := r.dial(c.Path)
	r.write(first, pattern(20_000))
	first.Close()
	r.eventually("the first has left", func() bool { return r.row(c).Clients == 0 })
	for range 2 {
		second := r.dial(c.Path)
		r.eventually("the next is connected", func() bool { return r.row(c).Clients == 1 })
		r.write(second, []byte("x"))
		second.Close()
		r.eventually("and has left", func() bool { return r.row(c).Clients == 0 })
	}
}

func TestClient_flapping(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	var want strings.Builder
	for i := range 200 {
		client := r.dial(c.Path)
		if i%3 > 0 {
			msg := strconv.Itoa(i) + ";"
			want.WriteString(msg)
			r.write(client, []byte(msg))
		}
		client.Close()
	}
	r.expect(guest, []byte(want.String()))
	client := r.dial(c.Path)
	r.write(guest, []byte("still well"))
	r.expect(client, []byte("still well"))
	r.eventually("one client", func() bool { return r.row(c).Clients == 1 })
}

// What a client was given and has not read is for the next one, to the byte where it
// has not begun to read it, and from not far before otherwise.
func TestClient_leavesWithoutReading(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	var said []byte
	say := func(n int) {
		t.Helper()
		p := pattern(len(said) + n)[len(said):]
		said = append(said, p...)
		r.write(guest, p)
		r.eventually("it is taken", func() bool { return r.row(c).GuestToHost == uint64(len(said)) })
	}
	leave := func(client *net.UnixConn) {
		t.Helper()
		client.Close()
		r.eventually("it has left", func() bool { return r.row(c).Clients == 0 })
	}
	at := 0 // before which all was read
	for range 2 {
		client := r.dial(c.Path)
		for range 500 { // answers to questions, each read
			say(20)
			r.expect(client, said[at:])
			at = len(said)
		}
		say(30) // but for the last
		r.eventually("it has the last", func() bool { return r.row(c).Spooled == 0 })
		leave(client)
		if n := r.row(c).Spooled; n != 30 {
			t.Fatalf("%d bytes wait for the next", n)
		}
	}
	client := r.dial(c.Path)
	r.expect(client, said[at:])
	leave(client)
	if n := r.row(c).Spooled; n != 0 {
		t.Fatalf("one has read all, and %d bytes wait for the next", n)
	}
	at = len(said)
	say(1_000_000)
	twice := 0
	for at < len(said) { // a bit each
		from := len(said) - int(r.row(c).Spooled)
		client := r.dial(c.Path)
		if from > at || at-from > unixsock.MaxUnread {
			t.Fatalf("after %d bytes were read the next gets those from %d on", at, from)
		}
		twice += at - from
		n := min(170_000, len(said)-from)
		r.expect(client, said[from:from+n])
		at = from + n
		leave(client)
	}
	t.Logf("%d bytes came twice", twice)
	client = r.dial(c.Path)
	say(10)
	r.expect(client, said[at:])
}

func TestClient_endsWithTheChannel(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	client := r.dial(c.Path)
	r.eventually("connected", func() bool { return r.row(c).Clients == 1 })
	last := pattern(800_000) // more than a socket takes
	r.write(guest, last)
	r.eventually("some of it waits", func() bool { s := r.row(c); return s.GuestToHost == 800_000 && s.Spooled > 0 })
	r.check(r.tools.Detach(t.Context(), r.dom, "a"))
	time.Sleep(50 * time.Millisecond) // a slow reader, but no dead one
	got, err := io.ReadAll(client)
	if !bytes.Equal(got, last) || err != nil {
		t.Errorf("the client got %d of %d bytes, %v", len(got), len(last), err)
	}
	r.eventually("the socket is removed", func() bool { return !exists(c.Path) })
}

func TestPTY(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a", Connection: channel.PTY})
	guest := r.boot(c)
	tty := ""
	r.eventually("the terminal is published", func() bool {
		tty, _ = r.store.Read(t.Context(), c.Frontend+"/tty")
		return tty != ""
	})
	early := pattern(50_000)
	r.write(guest, early)
	for i := range 3 {
		f, err := os.OpenFile(tty, os.O_RDWR, 0)
		r.check(err)
		r.check(pty.MakeRaw(f))
		if i == 0 {
			r.expect(f, early)
		}
		msg := fmt.Appendf(nil, "round %d\x00\r\n\x03", i)
		r.write(f, msg)
		r.expect(guest, msg)
		r.write(guest, msg)
		r.expect(f, msg)
		f.Close()
	}
}

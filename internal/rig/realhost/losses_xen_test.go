//go:build xen

package realhost

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// Every case in which the stock backend loses bytes, or strands them until the guest
// says something more, and those in which it does not, with a stock guest.
func TestLosses(t *testing.T) {
	startDaemon(t).ready()
	g := guest(t, xlguest.Config{})
	socket := attach(t, g.Name(), "connection=socket,name=org.example.a.0")
	pty := attach(t, g.Name(), "connection=pty,name=org.example.b.0")
	say := func(tty string, lines int) (said []byte) {
		t.Helper()
		for i := range lines {
			said = fmt.Appendln(said, i+1)
		}
		begin := time.Now()
		g.Run(fmt.Sprintf("sh -c 'stty raw -echo <&1; seq %d | cat' >%s </dev/null", lines, tty))
		t.Logf("the guest says %d bytes in %v", len(said), time.Since(begin).Round(time.Millisecond))
		return said
	}
	expect := func(c io.Reader, what string, want []byte) {
		t.Helper()
		got := make([]byte, len(want))
		if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d of %d bytes came, or others, %v", what, n, len(want), err)
		}
	}

	said := say("/dev/hvc1", 12_000)
	c := client(t, socket)
	expect(c, "a late client", said)
	said = say("/dev/hvc1", 150_000)
	expect(slow{c}, "a slow client", said)
	said = say("/dev/hvc1", 150_000)
	expect(c, "a client that stalled", said)
	said = say("/dev/hvc1", 450_000) // 3 MB
	for range 10 {
		said = append(said, say("/dev/hvc1", 5)...)
	}
	expect(c, "a client that stalled for longer", said)
	c.Close()

	for _, end := range []struct{ what, path, tty string }{{"socket", socket, "/dev/hvc1"}, {"terminal", pty, "/dev/hvc2"}} {
		said = say(end.tty, 150_000)
		first := client(t, end.path)
		expect(first, "a client at the "+end.what, said[:200_000])
		first.Close()
		at := 200_000
		if end.path == socket { // a bit of what it has read comes again
			await(t, g.Name(), "has no client", []string{"org.example.a.0"}, func(c channel.Info) bool { return c.Clients != nil && *c.Clients == 0 })
			at = len(said) - int(*list(t, g.Name())["org.example.a.0"].Spooled)
			t.Logf("after 200000 bytes the next client gets those from %d on", at)
			if at > 200_000 || at < 200_000-overlap {
				t.Errorf("after 200000 bytes the next client is to get those from %d on", at)
			}
		}
		second := client(t, end.path)
		expect(second, "the next client at the "+end.what, said[at:])
		second.Close()
	}

	hear := func(what string, n int, first string) {
		t.Helper()
		g.Run(fmt.Sprintf(`rm -f /tmp/listens /tmp/heard
printf '%%s\n' 'stty raw -echo' 'touch /tmp/listens' '%s' 'head -c %d >/tmp/heard.new' 'mv /tmp/heard.new /tmp/heard' >/tmp/hear
sh /tmp/hear </dev/hvc1 >/dev/null 2>&1 &`, first, n))
		g.Await("[ -e /tmp/listens ]")
		hasty := client(t, socket)
		if _, err := hasty.Write(said[:n]); err != nil {
			t.Fatal(err)
		}
		hasty.Close()
		g.Await("[ -e /tmp/heard ]")
		if heard, want := g.Run("md5sum </tmp/heard; rm /tmp/heard"), fmt.Sprintf("%x", md5.Sum(said[:n])); !strings.HasPrefix(heard, want) {
			t.Errorf("of %s the guest has %s, want %s", what, heard, want)
		}
	}
	hear("a client that writes 64 KiB and closes", 64<<10, ":")
	hear("a client that writes 900 kB and closes", 900_000, ":")
	hear("a client that writes 256 KiB while the guest does not read", 256<<10, "sleep 2")
	both := []string{"org.example.a.0", "org.example.b.0"}
	for name, c := range await(t, g.Name(), "empty", both, func(c channel.Info) bool { return c.Spooled != nil && *c.Spooled == 0 }) {
		if *c.Dropped != 0 {
			t.Errorf("%s: %d bytes dropped", name, *c.Dropped)
		}
	}
}

// slow reads 4 KiB at a time, with a pause after each.
type slow struct{ io.Reader }

func (s slow) Read(p []byte) (int, error) {
	defer time.Sleep(10 * time.Millisecond)
	return s.Reader.Read(p[:min(len(p), 4<<10)])
}

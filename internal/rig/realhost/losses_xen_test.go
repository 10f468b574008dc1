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

// The cases in which the stock backend loses bytes, or strands them until the guest
// says something more, with a stock guest. internal/e2e has all of them.
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
	late := client(t, socket)
	expect(late, "a late client", said)
	said = say("/dev/hvc1", 150_000)
	expect(late, "a client that stalled", said)
	late.Close()

	said = say("/dev/hvc2", 100_000)
	first := client(t, pty)
	expect(first, "a client", said[:200_000])
	first.Close()
	second := client(t, pty)
	expect(second, "the next client", said[200_000:])
	second.Close()

	const n = 64 << 10
	g.Run(`rm -f /tmp/listens /tmp/heard
printf '%s\n' 'stty raw -echo' 'touch /tmp/listens' 'head -c 65536 >/tmp/heard.new' 'mv /tmp/heard.new /tmp/heard' >/tmp/hear
sh /tmp/hear </dev/hvc1 >/dev/null 2>&1 &`)
	g.Await("[ -e /tmp/listens ]")
	hasty := client(t, socket)
	if _, err := hasty.Write(said[:n]); err != nil {
		t.Fatal(err)
	}
	hasty.Close()
	g.Await("[ -e /tmp/heard ]")
	heard := g.Run("md5sum </tmp/heard; rm /tmp/heard")
	if want := fmt.Sprintf("%x", md5.Sum(said[:n])); !strings.HasPrefix(heard, want) {
		t.Errorf("of a client that writes 64 KiB and closes the guest has %s, want %s", heard, want)
	}
	both := []string{"org.example.a.0", "org.example.b.0"}
	for name, c := range await(t, g.Name(), "empty", both, func(c channel.Info) bool { return c.Spooled != nil && *c.Spooled == 0 }) {
		if *c.Dropped != 0 {
			t.Errorf("%s: %d bytes dropped", name, *c.Dropped)
		}
	}
}

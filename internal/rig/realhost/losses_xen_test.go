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
sh /tmp/hear </dev/hvc1 >/dev/null 2>&1 &
for i in $(seq 500); do [ -e /tmp/listens ] && break; usleep 100000; done`)
	hasty := client(t, socket)
	if _, err := hasty.Write(said[:n]); err != nil {
		t.Fatal(err)
	}
	hasty.Close()
	heard := g.Run("for i in $(seq 300); do [ -e /tmp/heard ] && break; usleep 100000; done; md5sum </tmp/heard; rm /tmp/heard")
	if want := fmt.Sprintf("%x", md5.Sum(said[:n])); !strings.HasPrefix(heard, want) {
		t.Errorf("of a client that writes 64 KiB and closes the guest has %s, want %s", heard, want)
	}
	for name, c := range list(t, g.Name()) {
		if *c.Dropped != 0 || *c.Spooled != 0 {
			t.Errorf("%s: %d bytes dropped, %d left", name, *c.Dropped, *c.Spooled)
		}
	}
}

//go:build xen

package realhost

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/fdstore"
	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// listen keeps what comes.
const listen = `rm -f /tmp/listens
printf '%s\n' 'stty raw -echo' 'touch /tmp/listens' 'exec cat' >/tmp/listen
sh /tmp/listen </dev/hvc2 >/tmp/heard 2>/dev/null &`

// The daemon is killed 20 times, and stopped and started again in between, while a
// guest sends on one channel and a client on another. Neither notices, and every byte
// arrives once, as somebody keeps the daemon's descriptors.
func TestDaemon_restartsUnnoticed(t *testing.T) {
	const kills, stops = 20, 2
	manager, err := fdstore.NewManager(filepath.Join(t.TempDir(), "notify"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { manager.Close() })
	h := (&host{t: t, manager: manager}).run()
	h.ready()
	g := guest(t, xlguest.Config{})
	down := dialChannel(t, attach(t, g.Name(), "connection=socket,name=org.example.down.0"))
	up := dialChannel(t, attach(t, g.Name(), "connection=socket,name=org.example.up.0"))
	g.Run(listen)
	g.Await("[ -e /tmp/listens ]")
	var text []byte
	for i := range 20000 {
		text = fmt.Appendln(text, i+1)
	}
	f := follow(t, down, text)
	sent, stop := speak(t, up, text)
	g.Run(talk)
	states := watchStates(t, g.DomID())
	var back []time.Duration
	for i := range kills + stops {
		time.Sleep(time.Duration(50+rand.IntN(200)) * time.Millisecond)
		signal := syscall.SIGKILL
		if i%(kills/stops+1) == 0 {
			signal = syscall.SIGTERM
		}
		h.stop(signal)
		before, begin := f.Load(), time.Now()
		h.start()
		eventually(t, "bytes come again", func() bool { return f.Load() > before || t.Failed() })
		back = append(back, time.Since(begin))
	}
	if seen := states(); len(seen) > 0 {
		t.Errorf("the states went to %q; they were to stay 4", seen)
	}
	total := int64(talked(t, g) * len(text))
	eventually(t, "all bytes arrive", func() bool { return f.Load() >= total || t.Failed() })
	said := stop()
	eventually(t, "the guest has all", func() bool {
		n := look(t, g.Name())["org.example.up.0"].HostToGuest // nil from a daemon that has only begun
		return n != nil && *n == uint64(len(said))
	})
	g.Await(fmt.Sprintf("[ $(wc -c </tmp/heard) -ge %d ]", len(said)))
	heard := g.Run("md5sum </tmp/heard; rm /tmp/heard")
	if want := fmt.Sprintf("%x", md5.Sum(said)); !strings.HasPrefix(heard, want) || len(said) == 0 {
		t.Errorf("of %d bytes the guest has others: %s, want %s", len(said), heard, want)
	}
	c := list(t, g.Name())["org.example.down.0"]
	if f.Load() != total || *c.Dropped != 0 || *c.GuestToHost != uint64(total) {
		t.Errorf("of %d bytes %d arrived, %d were dropped and %d counted", total, f.Load(), *c.Dropped, *c.GuestToHost)
	}
	slices.Sort(back)
	t.Logf("%d kills and %d stops in mid-stream: %d bytes from the guest and %d to it, each once; from a daemon's start to the next byte %v (median; worst %v)",
		kills, stops, total, *sent, back[len(back)/2], back[len(back)-1])
}

func dialChannel(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// follow holds what comes against a text that is repeated, and counts it.
func follow(t *testing.T, c net.Conn, text []byte) *atomic.Int64 {
	pos, done := new(atomic.Int64), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			if !bytes.Equal(buf[:n], repeated(text, pos.Load(), n)) {
				t.Errorf("after %d bytes there come %q", pos.Load(), buf[:min(n, 60)])
				return
			}
			pos.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return pos
}

// speak repeats a text until it is stopped, which returns all that was said.
func speak(t *testing.T, c net.Conn, text []byte) (sent *int64, stop func() []byte) {
	stopped, done := make(chan struct{}), make(chan struct{})
	sent = new(int64)
	go func() {
		defer close(done)
		for {
			select {
			case <-stopped:
				return
			default:
			}
			n, err := c.Write(repeated(text, *sent, 4000))
			*sent += int64(n)
			if err != nil {
				t.Errorf("write after %d bytes: %v", *sent, err)
				return
			}
		}
	}()
	return sent, func() []byte {
		close(stopped)
		<-done
		return repeated(text, 0, int(*sent))
	}
}

// repeated is n bytes of a repeated text, from a position on.
func repeated(text []byte, at int64, n int) []byte {
	p := make([]byte, 0, n)
	for at %= int64(len(text)); len(p) < n; at = 0 {
		p = append(p, text[at:min(int64(len(text)), at+int64(n-len(p)))]...)
	}
	return p
}

//go:build xen

package realhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// talk repeats one text until it is told to stop, and says how often it did.
const talk = `rm -f /tmp/stop /tmp/rounds
printf '%s\n' 'stty raw -echo <&1' 'n=0' \
  'while [ ! -e /tmp/stop ]; do seq 20000 | cat; n=$((n+1)); done' \
  'echo $n >/tmp/rounds.new; mv /tmp/rounds.new /tmp/rounds' >/tmp/talk
sh /tmp/talk >/dev/hvc1 2>/dev/null </dev/null &`

// talked stops it, and returns how often it did.
func talked(t *testing.T, g *xlguest.Guest) int {
	t.Helper()
	g.Run("touch /tmp/stop")
	g.Await("[ -e /tmp/rounds ]")
	rounds, err := strconv.Atoi(strings.TrimSpace(g.Run("cat /tmp/rounds")))
	if err != nil {
		t.Fatal(err)
	}
	return rounds
}

// The daemon is killed while a guest sends, and stopped and started again in between,
// and nobody keeps its descriptors. The guest does not notice and every byte arrives; what was
// being written to a client at the moment of a kill may arrive twice, at a stop
// nothing does.
func TestDaemon_restartsInMidStream(t *testing.T) {
	const kills, stops = 2, 1 // TestDaemon_restartsUnnoticed has more
	h := startDaemon(t)
	h.ready()
	g := guest(t, xlguest.Config{})
	path := attach(t, g.Name(), "connection=socket,name=org.example.stream.0")
	f := newFollower(t, path, 20000)
	g.Run(talk)
	states := watchStates(t, g.DomID())
	var repeatedByStops int64
	for i := range kills + stops {
		time.Sleep(time.Duration(50+rand.IntN(200)) * time.Millisecond)
		signal := syscall.SIGKILL
		if i%(kills/stops+1) == 0 {
			signal = syscall.SIGTERM
		}
		if code := h.stop(signal); signal == syscall.SIGTERM && code != 0 {
			t.Errorf("a daemon that was asked to stop ended with status %d", code)
		}
		joined, repeated := f.joined.Load(), f.repeated.Load()
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		h.start()
		h.ready()
		eventually(t, "bytes come again", func() bool { return f.joined.Load() > joined || t.Failed() })
		if signal == syscall.SIGTERM {
			repeatedByStops += f.repeated.Load() - repeated
		}
	}
	if seen := states(); len(seen) > 0 {
		t.Errorf("the states went to %q; they were to stay 4", seen)
	}
	total := int64(talked(t, g) * len(f.text))
	eventually(t, "all bytes arrive", func() bool { return f.pos.Load() >= total || t.Failed() })
	c := list(t, g.Name())["org.example.stream.0"]
	t.Logf("%d kills and %d stops in mid-stream: %d bytes sent, %d arrived, %d of them twice (%d at stops), %d dropped",
		kills, stops, total, f.pos.Load(), f.repeated.Load(), repeatedByStops, *c.Dropped)
	if f.pos.Load() != total || *c.Dropped != 0 || repeatedByStops != 0 {
		t.Error("that is not every byte once")
	}
}

// watchStates follows the states of a domain's first channel, both connected now,
// and gives what else was seen since then.
func watchStates(t *testing.T, dom xen.DomID) (seen func() []string) {
	t.Helper()
	store, err := xenstore.Open(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	var others []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) { // ends with ctx
			for _, half := range []string{fmt.Sprintf("/local/domain/0/backend/console/%v/1", dom), fmt.Sprintf("/local/domain/%v/device/console/1", dom)} {
				if s, err := r.Read(ctx, half+"/state"); ctx.Err() == nil && (err != nil || s != "4") {
					others = append(others, fmt.Sprintf("%s %s %v", half, s, err))
				}
			}
			return false, nil
		})
	}()
	return func() []string {
		cancel()
		<-done
		return others
	}
}

// follower is a client that connects again and again, and holds what comes
// against the text that the guest repeats.
type follower struct {
	t             *testing.T
	path          string
	text          []byte
	pos, repeated atomic.Int64 // bytes that arrived, and that arrived again
	joined        atomic.Int64 // connections on which bytes have come
}

// overlap is the most that may come twice at a kill: one write, see package spool.
const overlap = 32 << 10

func newFollower(t *testing.T, path string, lines int) *follower {
	f := &follower{t: t, path: path}
	for i := range lines {
		f.text = fmt.Appendln(f.text, i+1)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for f.connect(stop) {
			time.Sleep(20 * time.Millisecond)
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	return f
}

// connect follows one connection to its end and reports whether there is to be
// another.
func (f *follower) connect(stop <-chan struct{}) bool {
	c, err := net.Dial("unix", f.path)
	if err != nil {
		select {
		case <-stop:
			return false
		default:
			return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
		}
	}
	defer c.Close()
	var at int64 = -1 // where in the stream this connection is; unknown until something came
	buf := make([]byte, 64<<10)
	for {
		select {
		case <-stop:
			return false
		default:
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		n, err := c.Read(buf)
		if n > 0 {
			first := at < 0
			if first {
				at = f.align(buf[:n])
			}
			if at < 0 || !f.same(at, buf[:n]) {
				f.t.Errorf("after %d bytes there come %q", f.pos.Load(), buf[:min(n, 60)])
				return false
			}
			if f.pos.Store(max(f.pos.Load(), at+int64(n))); first {
				f.joined.Add(1)
			}
			at += int64(n)
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return true
		}
	}
}

// align finds where p begins: where the last connection ended, or a little before.
func (f *follower) align(p []byte) int64 {
	pos := f.pos.Load()
	for at := pos; at >= max(0, pos-overlap); at-- {
		if f.same(at, p) {
			f.repeated.Add(pos - at)
			return at
		}
	}
	return -1
}

// same says whether p is what the guest sends from a position on.
func (f *follower) same(at int64, p []byte) bool {
	for len(p) > 0 {
		rest := f.text[at%int64(len(f.text)):]
		n := min(len(rest), len(p))
		if !bytes.Equal(rest[:n], p[:n]) {
			return false
		}
		p, at = p[n:], at+int64(n)
	}
	return true
}

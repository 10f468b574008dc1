//go:build xen

package realhost

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// talk repeats one text until it is told to stop, and says how often it did.
const talk = `printf '%s\n' 'stty raw -echo <&1' 'n=0' \
  'while [ ! -e /tmp/stop ]; do seq 20000 | cat; n=$((n+1)); done' \
  'echo $n >/tmp/rounds.new; mv /tmp/rounds.new /tmp/rounds' >/tmp/talk
sh /tmp/talk >/dev/hvc1 2>/dev/null </dev/null &`

// The daemon is killed 20 times while a guest sends. The guest does not notice
// and every byte arrives; what was being written to a client at the moment of a
// kill may arrive twice.
func TestDaemon_killedInMidStream(t *testing.T) {
	const kills = 20
	h := startDaemon(t)
	h.ready()
	g := xlguest.Start(t, xlguest.Config{})
	path := attach(t, g.Name(), "connection=socket,name=org.example.stream.0")
	f := newFollower(t, path, 20000)
	g.Run(talk)
	dom := g.DomID()
	for killed := 0; killed < kills; killed++ {
		time.Sleep(time.Duration(100+rand.IntN(400)) * time.Millisecond)
		before := f.pos.Load()
		h.stop(syscall.SIGKILL)
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
		h.start()
		h.ready()
		out, err := exec.Command("xenstore-read",
			fmt.Sprintf("/local/domain/0/backend/console/%v/1/state", dom),
			fmt.Sprintf("/local/domain/%v/device/console/1/state", dom)).Output()
		if err != nil || string(out) != "4\n4\n" {
			t.Fatalf("after kill %d the states are %q, %v; want 4 and 4", killed+1, out, err)
		}
		eventually(t, "bytes come again", 30*time.Second, func() bool { return f.pos.Load() > before || t.Failed() })
	}
	g.Run("touch /tmp/stop")
	rounds, err := strconv.Atoi(strings.TrimSpace(g.Run("for i in $(seq 500); do [ -e /tmp/rounds ] && break; usleep 100000; done; cat /tmp/rounds")))
	if err != nil {
		t.Fatal(err)
	}
	total := int64(rounds * len(f.text))
	eventually(t, "all bytes arrive", time.Minute, func() bool { return f.pos.Load() >= total || t.Failed() })
	c := list(t, g.Name())["org.example.stream.0"]
	t.Logf("%d kills in mid-stream: %d bytes sent, %d arrived, %d of them twice, %d dropped", kills, total, f.pos.Load(), f.repeated.Load(), *c.Dropped)
	if f.pos.Load() != total || *c.Dropped != 0 {
		t.Error("that is not every byte once")
	}
}

// follower is a client that connects again and again, and holds what comes
// against the text that the guest repeats.
type follower struct {
	t             *testing.T
	path          string
	text          []byte
	pos, repeated atomic.Int64 // bytes that arrived, and that arrived again
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
			if at < 0 {
				at = f.align(buf[:n])
			}
			if at < 0 || !f.same(at, buf[:n]) {
				f.t.Errorf("after %d bytes there come %q", f.pos.Load(), buf[:min(n, 60)])
				return false
			}
			at += int64(n)
			f.pos.Store(max(f.pos.Load(), at))
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

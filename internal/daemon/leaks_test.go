package daemon_test

import (
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/xenchan/xenchan/channel"
)

// count is how often a test does something: XENCHAN_NAME, or few times. `make leaks`
// does it as often as a large host does in years.
func count(t *testing.T, name string, few int) int {
	t.Helper()
	text := os.Getenv("XENCHAN_" + name)
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("XENCHAN_%s=%q is not a number from 1 on", name, text)
	}
	return n
}

// heap is what is reachable, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC() // finalizers of the first
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// mostLeft is what the heap may grow by, however often something is done: maps do
// not shrink, and the runtime has its own. It is 40 bytes for each of 24,000.
const mostLeft = 1 << 20

// Attach, use and detach, again and again, leaves nothing behind.
func TestLeaks_attachAndDetach(t *testing.T) {
	r := newRig(t)
	r.log = slog.New(slog.DiscardHandler) // the test would keep all of it
	r.daemon()
	r.attach(channel.Spec{Name: "stays"})
	round := func(i int) {
		kind := []channel.Connection{channel.Socket, channel.PTY}[i%2]
		c := r.attach(channel.Spec{Name: "a", Connection: kind, Spool: 64 << 10})
		front := r.newFrontend(c) // the test would remember what it has to clean up
		defer front.stop()
		r.connected(c)
		guest := <-front.conns
		r.write(guest, []byte("hello"))
		if kind == channel.Socket {
			var client net.Conn
			r.eventually("a client can connect", func() (ok bool) {
				var err error
				client, err = net.Dial("unix", c.Path)
				return err == nil
			})
			r.expect(client, []byte("hello"))
			client.Close()
		}
		r.check(r.tools.Detach(t.Context(), r.dom, "a"))
		<-front.ended
		r.eventually("forgotten", func() bool { return len(r.status()) == 1 })
	}
	r.again(t, "attach and detach", count(t, "ATTACHES", 60), round)
}

// So do clients that come and go.
func TestLeaks_clients(t *testing.T) {
	r := newRig(t)
	r.log = slog.New(slog.DiscardHandler) // the test would keep all of it
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	r.dial(c.Path).Close() // its socket is there
	r.again(t, "connect and leave", count(t, "CLIENTS", 1000), func(i int) {
		client, err := net.Dial("unix", c.Path)
		r.check(err)
		switch i % 4 {
		case 0: // says something
			r.write(client, []byte("hello"))
			r.expect(guest, []byte("hello"))
		case 1: // hears something
			r.write(guest, []byte("hello"))
			r.expect(client, []byte("hello"))
		case 2: // is a moment too late
			client.Close()
			client, err = net.Dial("unix", c.Path)
			r.check(err)
		}
		client.Close()
	})
}

// again does something n times and checks that no more is in use than when it had
// been done a few times.
func (r *rig) again(t *testing.T, what string, n int, do func(i int)) {
	t.Helper()
	for i := range min(n, 40) {
		do(i)
	}
	r.eventually("no client is left", func() bool { return r.status()[0].Clients == 0 })
	before, bytes := r.held(), heap()
	for i := range n {
		do(i)
	}
	r.heldAgain(before)
	now := heap()
	t.Logf("%s %d times: %d descriptors, %d goroutines, heap of %d KiB and then of %d", what, n, before.Files, before.Goroutines, bytes>>10, now>>10)
	if now-bytes > mostLeft {
		t.Errorf("the heap has grown by %d KiB", (now-bytes)>>10)
	}
}

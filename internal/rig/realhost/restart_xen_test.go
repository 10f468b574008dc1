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
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// The daemon is killed 20 times while a guest sends. The guest does not notice
// and every byte arrives; what was being written to a client at the moment of a
// kill may arrive twice.
func TestDaemon_killedInMidStream(t *testing.T) {
	const (
		kills   = 20
		overlap = 32 << 10 // bytes, the most that spool hands out at a time
		last    = 2000000
	)
	h := startDaemon(t)
	h.ready()
	g := xlguest.Start(t, xlguest.Config{})
	path := attach(t, g.Name(), "connection=socket,name=org.example.stream.0")
	var want bytes.Buffer
	for i := range last {
		fmt.Fprintln(&want, i+1)
	}
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	progress := make(chan int, 1000)
	go func() { defer close(done); follow(t, path, want.Bytes(), overlap, progress, stop) }()

	g.Run(fmt.Sprintf("( stty raw -echo; seq %d | cat ) </dev/hvc1 >/dev/hvc1 2>/dev/null &", last))
	mid, dom := 0, g.DomID()
	for killed := 0; killed < kills; killed++ {
		time.Sleep(time.Duration(100+rand.IntN(500)) * time.Millisecond)
		if latest(progress) < want.Len() {
			mid++
		}
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
	}
	eventually(t, "all bytes arrive", 4*time.Minute, func() bool { return latest(progress) == want.Len() })
	c := list(t, g.Name())["org.example.stream.0"]
	t.Logf("%d bytes, %d kills, %d of them in mid-stream, dropped %d", want.Len(), kills, mid, *c.Dropped)
	if mid < kills/2 || *c.Dropped != 0 {
		t.Errorf("%d kills in mid-stream, %d bytes dropped", mid, *c.Dropped)
	}
	echoAgent(g, "/dev/hvc1")
}

// latest is the last value that was sent; it stays for the next caller.
func latest(c chan int) (v int) {
	for {
		select {
		case v = <-c:
		default:
			if v > 0 {
				c <- v
			}
			return v
		}
	}
}

// follow connects again and again, and holds what comes against want.
func follow(t *testing.T, path string, want []byte, overlap int, progress chan<- int, stop <-chan struct{}) {
	pos := 0 // bytes that have arrived
	repeated := 0
	for pos < len(want) {
		select {
		case <-stop:
			return
		default:
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.EAGAIN) {
				t.Error(err)
				return
			}
			time.Sleep(20 * time.Millisecond)
			continue
		}
		at := -1 // where in want this connection is; unknown until something came
		buf := make([]byte, 64<<10)
		for pos < len(want) {
			c.SetReadDeadline(time.Now().Add(time.Second))
			n, err := c.Read(buf)
			if n > 0 && at < 0 {
				if at = align(want, pos, overlap, buf[:n]); at < 0 {
					t.Errorf("at byte %d a connection goes on with %q", pos, buf[:min(n, 60)])
					c.Close()
					return
				}
				repeated += pos - at
			}
			if n > 0 {
				if at+n > len(want) || !bytes.Equal(want[at:at+n], buf[:n]) {
					t.Errorf("wrong bytes after %d", at)
					c.Close()
					return
				}
				at += n
				if pos = max(pos, at); len(progress) < cap(progress)/2 || pos == len(want) {
					progress <- pos
				}
			}
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			select {
			case <-stop:
				c.Close()
				return
			default:
			}
		}
		c.Close()
	}
	t.Logf("%d bytes arrived twice", repeated)
}

// align finds where between pos-overlap and pos the bytes p begin in want.
func align(want []byte, pos, overlap int, p []byte) int {
	for at := pos; at >= max(0, pos-overlap); at-- {
		if len(p) <= len(want)-at && bytes.Equal(want[at:at+len(p)], p) {
			return at
		}
	}
	return -1
}

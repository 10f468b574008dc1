package daemon_test

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
)

// openHere counts the descriptors of this process that are pipes and files of spools.
func openHere(t *testing.T) (pipes, spools int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		switch to, _ := os.Readlink(l); {
		case strings.HasPrefix(to, "pipe:"):
			pipes++
		case strings.Contains(to, "/daemon.spool/"):
			spools++
		}
	}
	return pipes, spools
}

// A channel without a client has no pipes, and none keeps the file of its spool open:
// thousands of them are within the usual limits.
func TestDescriptors_ofIdleChannels(t *testing.T) {
	r := newRig(t)
	r.daemon()
	before, _ := openHere(t)
	idle := r.attach(channel.Spec{Name: "idle"})
	r.boot(idle)
	busy := r.attach(channel.Spec{Name: "busy"})
	guest := r.boot(busy)
	if pipes, spools := openHere(t); pipes != before || spools != 0 {
		t.Errorf("two idle channels hold %d pipes and %d files of spools", pipes-before, spools)
	}
	client := r.dial(busy.Path)
	want := pattern(300_000)
	go guest.Write(want)
	r.expect(client, want)
	if pipes, spools := openHere(t); pipes != before+2 || spools != 0 {
		t.Errorf("one channel with a client holds %d pipes and %d files of spools", pipes-before, spools)
	}
}

// ownGoroutines counts the goroutines in which the daemon is at work, or waits.
func ownGoroutines() (n int, stacks string) {
	buf := make([]byte, 4<<20)
	stacks = string(buf[:runtime.Stack(buf, true)])
	for stack := range strings.SplitSeq(stacks, "\n\n") {
		if strings.Contains(stack, "xenchan/internal/daemon.") || strings.Contains(stack, "console.(*Backend)") {
			n++
		}
	}
	return n, stacks
}

// An idle channel holds no goroutine, neither before its first client nor after its last.
func TestGoroutines_ofIdleChannels(t *testing.T) {
	r := newRig(t)
	r.daemon()
	time.Sleep(50 * time.Millisecond) // until it has come to rest
	none, _ := ownGoroutines()
	quiet := func(when string) {
		t.Helper()
		var n int
		var stacks string
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if n, stacks = ownGoroutines(); n <= none {
				return
			}
		}
		t.Fatalf("%s: the daemon has %d goroutines, and had %d:\n%s", when, n, none, stacks)
	}
	var channels []string
	var guests []io.Writer
	for _, name := range []string{"a", "b", "c"} {
		c := r.attach(channel.Spec{Name: name})
		guests = append(guests, r.boot(c))
		channels = append(channels, c.Path)
	}
	quiet("three idle channels")
	for i, path := range channels {
		client := r.dial(path)
		_, err := guests[i].Write([]byte("hello"))
		r.check(err)
		r.expect(client, []byte("hello"))
		r.check(client.Close())
	}
	quiet("after a client of each")
	client := r.dial(channels[0]) // it is seen all the same
	_, err := guests[0].Write([]byte("again"))
	r.check(err)
	r.expect(client, []byte("again"))
}

package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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

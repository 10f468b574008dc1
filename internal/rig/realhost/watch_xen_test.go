//go:build xen

package realhost

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// watching is a running `xenchan watch -o json`.
type watching struct {
	t      *testing.T
	events chan channel.Event
}

// startWatch watches a domain from now on.
func startWatch(t *testing.T, domain string) *watching {
	t.Helper()
	cmd := exec.Command("xenchan", "watch", domain, "--now", "-o", "json")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w := &watching{t: t, events: make(chan channel.Event, 10_000)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e channel.Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Errorf("watch says %q: %v", lines.Text(), err)
			}
			w.events <- e
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		<-ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	w.until("it watches", func(e channel.Event) bool { return e.Kind == channel.EventDaemon && *e.Running })
	return w
}

// until waits for an event.
func (w *watching) until(what string, is func(channel.Event) bool) {
	w.t.Helper()
	end := time.After(xlguest.Patience)
	for {
		select {
		case e := <-w.events:
			if is(e) {
				return
			}
		case <-end:
			w.t.Fatalf("no event that %s", what)
		}
	}
}

func (w *watching) untilKind(kind channel.EventKind, name string) {
	w.t.Helper()
	w.until(string(kind)+" of "+name, func(e channel.Event) bool { return e.Kind == kind && e.Name == name })
}

package watch_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/watch"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/storeserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a xenstore with one domain, and a daemon that says what the test wants.
type rig struct {
	t      *testing.T
	tools  *toolstack.Toolstack
	dom    toolstack.Domain
	events chan channel.Event
}

func newRig(t *testing.T) *rig {
	t.Helper()
	server := storeserver.New(storeserver.Config{})
	ours, theirs := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.ServeConn(theirs, 0) })
	store := xenstore.New(ours)
	t.Cleanup(func() { store.Close(); server.Close(); wg.Wait() })
	r := &rig{
		t: t, dom: toolstack.Domain{ID: 5, Name: "web"}, events: make(chan channel.Event, 1000),
		tools: &toolstack.Toolstack{Store: store, RunDir: t.TempDir()},
	}
	for _, node := range [][2]string{{"/libxl/5/type", "pvh"}, {"/local/domain/5/name", "web"}} {
		r.check(store.Write(t.Context(), node[0], node[1]))
	}
	r.check(server.IntroduceDomain(5))
	return r
}

func (r *rig) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) attach(name string) toolstack.Channel {
	r.t.Helper()
	c, err := r.tools.Attach(r.t.Context(), r.dom, channel.Spec{Name: name, Connection: channel.Socket})
	r.check(err)
	return c
}

// watch watches until the test ends.
func (r *rig) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- watch.Run(ctx, watch.Config{Tools: r.tools, Now: true}, func(e channel.Event) error { r.events <- e; return nil })
	}()
	r.t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			r.t.Errorf("Run: %v", err)
		}
	})
}

// expect is the next event in words; each must be as it says.
func (r *rig) expect(want ...string) {
	r.t.Helper()
	for _, w := range want {
		select {
		case e := <-r.events:
			if got := words(e); got != w {
				r.t.Fatalf("event %q, want %q", got, w)
			}
		case <-time.After(20 * time.Second):
			r.t.Fatalf("no event %q", w)
		}
	}
}

func words(e channel.Event) string {
	s := fmt.Sprint(e.Kind)
	if e.Name != "" {
		s += fmt.Sprintf(" %s/%s", e.Domain, e.Name)
	}
	switch {
	case e.Running != nil:
		s += fmt.Sprint(" ", *e.Running)
	case e.State != nil:
		s += fmt.Sprint(" ", *e.State)
	case e.Clients != nil:
		s += fmt.Sprint(" ", e.Change, " ", *e.Clients)
	case e.Lost != nil:
		s += fmt.Sprint(" ", *e.Lost, " ", *e.Dropped)
	case e.Missed > 0:
		s += fmt.Sprint(" ", e.Missed)
	}
	return s + string(e.Guest)
}

// fakeDaemon answers with rows, and sends what is put into events.
type fakeDaemon struct {
	events chan channel.Event
	stop   func()
}

func (r *rig) daemon(rows ...daemon.Status) *fakeDaemon {
	r.t.Helper()
	d := &fakeDaemon{events: make(chan channel.Event)}
	l, err := net.Listen("unix", filepath.Join(r.tools.RunDir, "daemon.sock"))
	r.check(err)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/channels", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(rows) })
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, q *http.Request) {
		running := true
		e := channel.Event{Kind: channel.EventDaemon, Running: &running}
		for {
			json.NewEncoder(w).Encode(e)
			http.NewResponseController(w).Flush()
			select {
			case e = <-d.events:
			case <-q.Context().Done():
				return
			}
		}
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(l) }()
	d.stop = sync.OnceFunc(func() { s.Close(); <-ended })
	r.t.Cleanup(d.stop)
	return d
}

func status(c toolstack.Channel, clients int, end, spooled, dropped uint64) daemon.Status {
	return daemon.Status{DomID: c.DomID, DevID: c.DevID, Guest: channel.GuestUnknown, Clients: clients, GuestToHost: end, Spooled: spooled, Dropped: dropped}
}

func TestRun_xenstoreAlone(t *testing.T) {
	r := newRig(t)
	a := r.attach("a")
	r.watch()
	r.expect("present web/a", "daemon false")
	r.attach("b")
	r.expect("attach web/b")
	r.check(r.tools.Store.Write(t.Context(), a.Backend+"/state", "4"))
	r.expect("state web/a 4")
	r.check(r.tools.Store.Remove(t.Context(), "/libxl/5/device/console/2"))
	r.expect("detach web/b")
	// Made anew at once: that is another channel.
	r.check(r.tools.Store.Write(t.Context(), a.Backend+"/instance", "another"))
	r.check(r.tools.Store.Write(t.Context(), "/libxl/5/device/console/1/spool", "9999"))
	r.expect("detach web/a", "attach web/a")
	r.check(r.tools.Store.Tx(t.Context(), func(tx *xenstore.Tx) error { // as with xl destroy
		return errors.Join(tx.Remove(t.Context(), "/local/domain/5"), tx.Remove(t.Context(), a.Backend), tx.Remove(t.Context(), "/libxl/5"))
	}))
	r.expect("detach web/a")
}

// What happened while no daemon answered, or was missed, is told as one change,
// and what happened before the watch not at all.
func TestRun_catchesUp(t *testing.T) {
	r := newRig(t)
	a := r.attach("a")
	r.watch()
	r.expect("present web/a", "daemon false")
	d := r.daemon(status(a, 1, 1000, 100, 500))
	r.expect("daemon true", "client web/a connected 1")
	d.stop()
	r.expect("daemon false")
	d = r.daemon(status(a, 0, 3000, 200, 1500))
	r.expect("daemon true", "client web/a left 0", "loss web/a {1000 900 2800} 1500")
	d.stop()
	r.expect("daemon false")
	d = r.daemon(status(a, 2, 3000, 200, 1500))
	r.expect("daemon true", "client web/a connected 2")
	// An event is not told again by the next look.
	one, lost := 1, uint64(1600)
	d.events <- channel.Event{Kind: channel.EventClient, DomID: 5, DevID: 1, Name: "a", Change: channel.ClientLeft, Clients: &one}
	d.events <- channel.Event{Kind: channel.EventLoss, DomID: 5, DevID: 1, Name: "a", Lost: &channel.Loss{Bytes: 100, From: 3000, To: 3100}, Dropped: &lost}
	r.expect("client web/a left 1", "loss web/a {100 3000 3100} 1600")
	d.events <- channel.Event{Kind: channel.EventMissed, Missed: 7}
	r.expect("missed 7", "client web/a connected 2") // as the daemon says when asked
	d.events <- channel.Event{Kind: channel.EventGuest, DomID: 5, DevID: 1, Name: "a", Guest: channel.GuestReading}
	r.expect("guest web/areading")
	// A channel that it speaks of before xenstore has: told in the right order.
	r.attach("b")
	d.events <- channel.Event{Kind: channel.EventClient, DomID: 5, DevID: 2, Name: "b", Change: channel.ClientConnected, Clients: &one}
	r.expect("attach web/b", "client web/b connected 1")
	// What comes after it was detached: its client leaves, but the guest says nothing.
	r.check(r.tools.Store.Remove(t.Context(), "/libxl/5/device/console/2"))
	r.expect("detach web/b")
	none := 0
	d.events <- channel.Event{Kind: channel.EventGuest, DomID: 5, DevID: 2, Name: "b", Guest: channel.GuestReading}
	d.events <- channel.Event{Kind: channel.EventClient, DomID: 5, DevID: 2, Name: "b", Change: channel.ClientLeft, Clients: &none}
	r.expect("client web/b left 0")
}

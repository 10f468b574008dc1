package console_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/toolstack"
)

// An older guest writes on after it has closed, and would hang if nobody read.
func TestBackend_servesAClosingGuestUntilTheNodesGo(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	sink := newMemory(-1)
	back := r.backend(c, sink)
	f := r.offer(c)
	r.set(r.guest, c.Frontend+"/state", "3")
	r.await(c.Backend+"/state", "4")
	r.set(r.store, c.Backend+"/online", "0")
	r.set(r.store, c.Backend+"/state", "5")
	r.set(r.guest, c.Frontend+"/state", "6")
	r.await(c.Backend+"/state", "6")
	write(t, f, pattern(10_000)) // several rings full
	r.remove(c)
	r.check(back.wait(t))
	if !bytes.Equal(sink.bytes(), pattern(10_000)) {
		t.Errorf("%d bytes came", len(sink.bytes()))
	}
}

// offer shares a ring and publishes it, without a Frontend.
func (r *rig) offer(c toolstack.Channel) *console.Conn {
	r.t.Helper()
	pages, err := r.domU.SharePages(0, 1)
	r.check(err)
	event, err := r.domU.AllocUnbound(0)
	r.check(err)
	r.set(r.guest, c.Frontend+"/ring-ref", pages.Refs()[0].String())
	r.set(r.guest, c.Frontend+"/port", event.Port().String())
	f, err := console.AttachFrontend(pages, event)
	r.check(err)
	r.t.Cleanup(func() { f.Close() })
	return f
}

// Two quick commands, detach and attach: the Backend sees no moment without nodes.
func TestBackend_deviceReplaced(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	gate := make(chan struct{}, 100)
	settled := make(chan struct{}, 100)
	back := r.backendWith(c, console.Backend{Settled: func() { settled <- struct{}{}; <-gate }})
	<-settled // has published InitWait, and looks no more
	r.remove(c)
	again := r.attach("other")
	if again.Backend != c.Backend {
		t.Fatalf("%s, not %s", again.Backend, c.Backend)
	}
	close(gate)
	if err := back.wait(t); !errors.Is(err, console.ErrReplaced) {
		t.Errorf("Run: %v", err)
	}
	if s, _ := r.store.Read(t.Context(), again.Backend+"/state"); s != "1" {
		t.Errorf("the old backend wrote state %s into the new nodes", s)
	}
}

// The same, in the moment between what the Backend saw and what it writes.
func TestBackend_replacedWhileItAttaches(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	again := make(chan toolstack.Channel, 1)
	back := r.backendWith(c, console.Backend{Attached: func(*console.Conn) {
		r.remove(c)
		again <- r.attach("other")
	}})
	r.offer(c)
	r.set(r.guest, c.Frontend+"/state", "3")
	if err := back.wait(t); !errors.Is(err, console.ErrReplaced) {
		t.Errorf("Run: %v", err)
	}
	if s, _ := r.store.Read(t.Context(), (<-again).Backend+"/state"); s != "1" {
		t.Errorf("the old backend wrote state %s into the new nodes", s)
	}
	if d, _ := r.info(0); d.Mapped != 0 {
		t.Errorf("%+v", d)
	}
}

// A guest that closes and begins anew at once is not told of the end of what was before:
// it would take that for the end of what it has begun, and close for good.
func TestBackend_beginsAnewWhileItEnds(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	var mu sync.Mutex
	var told []string
	r.backendWith(c, console.Backend{
		Detached: func(*console.Conn) { r.set(r.guest, c.Frontend+"/state", "1") },
		Settled: func() {
			state, err := r.store.Read(context.Background(), c.Backend+"/state")
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprint(state, err))
		},
	})
	r.offer(c)
	r.set(r.guest, c.Frontend+"/state", "3")
	r.await(c.Backend+"/state", "4")
	r.set(r.guest, c.Frontend+"/state", "6")
	r.await(c.Backend+"/state", "2")
	mu.Lock()
	defer mu.Unlock()
	if slices.Contains(told, "6<nil>") {
		t.Errorf("the backend's states were %q", told)
	}
}

// A domain dies before its toolstack removes the nodes.
func TestBackend_domainReleased(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	back := r.backend(c, nil)
	r.offer(c)
	r.set(r.guest, c.Frontend+"/state", "3")
	r.await(c.Backend+"/state", "4")
	r.check(r.store.Release(t.Context(), r.dom.ID))
	r.check(back.wait(t))
	if d, _ := r.info(0); d.Mapped != 0 || d.Ports != 0 {
		t.Errorf("the dead domain is still held: %+v", d)
	}
}

// What is in the ring when the guest closes is taken, also if nobody has said
// that the sink has room again.
func TestBackend_takesTheLastBytes(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	sink := newMemory(0)
	r.backend(c, sink)
	write(t, r.offer(c), []byte("last words"))
	r.set(r.guest, c.Frontend+"/state", "3")
	r.await(c.Backend+"/state", "4")
	sink.mu.Lock()
	sink.room = 100
	sink.mu.Unlock()
	r.set(r.guest, c.Frontend+"/state", "6")
	r.await(c.Backend+"/state", "6")
	if got := sink.bytes(); string(got) != "last words" {
		t.Errorf("the sink has %q", got)
	}
}

func TestBackend_storeLost(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	back := r.backend(c, nil)
	r.frontend(c)
	r.connected(c)
	r.store.Close()
	if err := back.wait(t); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if d, _ := r.info(0); d.Mapped != 0 || d.Ports != 0 {
		t.Errorf("left behind: %+v", d)
	}
}

package toolstack_test

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore"
)

// timed runs f on a host in virtual time and checks how long it took.
func timed(t *testing.T, want time.Duration, f func(t *testing.T, h *host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		defer h.close()
		begin := time.Now()
		f(t, h)
		if took := time.Since(begin); took != want {
			t.Errorf("it took %v, want %v", took, want)
		}
	})
}

func (h *host) states(c toolstack.Channel, back, front string) {
	h.t.Helper()
	h.write(c.Backend+"/state", back, "")
	h.write(c.Frontend+"/state", front, "")
}

// answer plays one half that sets its state when the other is at another.
func (h *host) answer(node, when, to string) {
	store := h.connect(0)
	h.wg.Go(func() {
		path := strings.Fields(when)
		_ = store.WaitUntil(context.Background(), func(r xenstore.Reader) (bool, error) {
			v := xenstore.NewValues(context.Background(), r)
			return v.Get(path[0]) == path[1], v.Err()
		})
		_ = store.Write(context.Background(), node, to)
	})
}

func TestDetach_neverServed(t *testing.T) {
	timed(t, 0, func(t *testing.T, h *host) {
		defer h.unchanged()()
		h.attach("a")
		h.check(h.tools.Detach(t.Context(), web, "a"))
	})
}

func TestDetach_bothAnswer(t *testing.T) {
	timed(t, 0, func(t *testing.T, h *host) {
		defer h.unchanged()()
		c := h.attach("a")
		h.states(c, "4", "4")
		h.answer(c.Frontend+"/state", c.Backend+"/state 5", "6")
		h.answer(c.Backend+"/state", c.Frontend+"/state 6", "6")
		h.check(h.tools.Detach(t.Context(), web, "a"))
	})
}

// The guest answers, but there is no daemon any more.
func TestDetach_noDaemon(t *testing.T) {
	timed(t, time.Second, func(t *testing.T, h *host) {
		defer h.unchanged()()
		c := h.attach("a")
		h.states(c, "4", "4")
		h.answer(c.Frontend+"/state", c.Backend+"/state 5", "6")
		h.check(h.tools.Detach(t.Context(), web, "a"))
	})
}

func TestDetach_guestNeverAnswers(t *testing.T) {
	timed(t, 11*time.Second, func(t *testing.T, h *host) {
		defer h.unchanged()()
		c := h.attach("a")
		h.states(c, "4", "4")
		h.check(h.tools.Detach(t.Context(), web, "a"))
	})
}

func TestDetach_guestDeletedItsNodes(t *testing.T) {
	timed(t, time.Second, func(t *testing.T, h *host) {
		defer h.unchanged()()
		c := h.attach("a")
		h.states(c, "4", "4")
		h.check(h.connect(web.ID).Remove(t.Context(), c.Frontend))
		if _, err := h.tools.Attach(t.Context(), web, socket("a")); err == nil {
			t.Error("a channel whose frontend has gone still has its name")
		}
		h.check(h.tools.Detach(t.Context(), web, "a"))
	})
}

// A context that ends ends the waiting, not the detaching.
func TestDetach_contextEnds(t *testing.T) {
	timed(t, 3*time.Second, func(t *testing.T, h *host) {
		defer h.unchanged()()
		c := h.attach("a")
		h.states(c, "4", "4")
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		h.check(h.tools.Detach(ctx, web, "a"))
	})
}

func TestDetach_asksBeforeItRemoves(t *testing.T) {
	h := newHost(t)
	defer h.close()
	c := h.attach("a")
	h.states(c, "4", "4")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.tools.Detach(ctx, web, "a") }()
	h.check(h.store.WaitUntil(t.Context(), func(r xenstore.Reader) (bool, error) {
		v := xenstore.NewValues(t.Context(), r)
		return v.Get(c.Backend+"/state") == "5" && v.Get(c.Backend+"/online") == "0", v.Err()
	}))
	if got := h.read(c.Frontend + "/state"); got != "4" {
		t.Errorf("the guest's state was touched: %q", got)
	}
	cancel()
	h.check(<-done)
}

func TestDetach_servedByQEMU(t *testing.T) {
	h := newHost(t)
	defer h.close()
	before := h.unchanged()
	_, err := h.tools.AttachStock(t.Context(), web, channel.Spec{Name: "a", Connection: channel.PTY})
	h.check(err)
	const pid = "/local/domain/5/image/device-model-pid"
	h.write(pid, strconv.Itoa(os.Getpid()), "")
	during := h.unchanged()
	if err := h.tools.Detach(t.Context(), web, "a"); err == nil || !strings.Contains(err.Error(), "QEMU") {
		t.Errorf("%v", err)
	}
	during()
	// Ours in the place of the QEMU can do without it.
	const home = "/local/domain/0/device-model"
	h.write(toolstack.StandIn("/local/domain/0", web.ID), toolstack.HandedOver, "")
	h.check(h.tools.Detach(t.Context(), web, "a"))
	h.check(h.store.Remove(t.Context(), "/local/domain/5/image"))
	h.check(h.store.Remove(t.Context(), home))
	before()
}

func TestDetach_unknown(t *testing.T) {
	h := newHost(t)
	defer h.close()
	defer h.unchanged()()
	err := h.tools.Detach(t.Context(), web, "a")
	if !errors.Is(err, toolstack.ErrNoChannel) || !strings.Contains(err.Error(), "no channels") {
		t.Errorf("in a domain without channels: %v", err)
	}
	h.attach("org.example.agent.0")
	defer func() { h.check(h.tools.Detach(t.Context(), web, "org.example.agent.0")) }()
	err = h.tools.Detach(t.Context(), web, "org.example.agnet.0")
	if !errors.Is(err, toolstack.ErrNoChannel) || !strings.Contains(err.Error(), "did you mean org.example.agent.0?") {
		t.Errorf("misspelled: %v", err)
	}
	err = h.tools.Detach(t.Context(), web, "zzz")
	if !errors.Is(err, toolstack.ErrNoChannel) || !strings.Contains(err.Error(), "but org.example.agent.0") {
		t.Errorf("unknown: %v", err)
	}
}

// Only directories that are empty go, and others' devices stay.
func TestDetach_leavesTheRestAlone(t *testing.T) {
	h := newHost(t)
	defer h.close()
	h.write("/local/domain/5/device/vif/0/state", "4", "")
	h.write("/local/domain/0/backend/vif/5/0/state", "4", "")
	h.write("/libxl/5/device/vif/0/state", "4", "")
	defer h.unchanged()()
	a, b := h.attach("a"), h.attach("b")
	h.check(h.tools.Detach(t.Context(), web, "a"))
	if got := h.read(b.Frontend + "/name"); got != "b" {
		t.Error(got)
	}
	if ok, _ := h.store.Exists(t.Context(), a.Frontend); ok {
		t.Error("still there")
	}
	h.check(h.tools.Detach(t.Context(), web, "b"))
}

// What is left of a domain that is gone is removed; what is not ours, or whose
// domain is there, stays.
func TestSweep(t *testing.T) {
	h := newHost(t)
	defer h.close()
	a, err := h.tools.Attach(t.Context(), toolstack.Domain{ID: 6, Name: "drv"}, channel.Spec{Name: "a", Connection: channel.PTY})
	h.check(err)
	alive := h.attach("alive")
	h.write("/local/domain/0/backend/console/6/9/frontend", "/local/domain/6/device/console/9", "n0") // of libxl
	h.check(h.store.Remove(t.Context(), "/local/domain/6"))
	all, err := h.tools.Domains(t.Context())
	h.check(err)
	h.check(h.tools.Sweep(t.Context(), all))
	for path, want := range map[string]bool{a.Backend: false, alive.Backend: true, "/local/domain/0/backend/console/6/9": true} {
		if got, err := h.store.Exists(t.Context(), path); got != want || err != nil {
			t.Errorf("%s exists: %v, %v", path, got, err)
		}
	}
}

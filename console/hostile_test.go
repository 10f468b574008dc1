package console_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/xenchan/xenchan/ring"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// What a guest may write instead of a ring. None of it may be attached, and none
// may keep a guest that behaves again from being served.
func TestBackend_garbageInTheFrontend(t *testing.T) {
	r := newRig(t)
	other, err := r.domU.SharePages(5, 1) // granted, but not to us
	r.check(err)
	defer other.Close()
	for i, nodes := range []map[string]string{
		{"ring-ref": ""},
		{"ring-ref": "-1"},
		{"ring-ref": "4294967296"},
		{"ring-ref": "0x10"},
		{"ring-ref": "99999"}, // never granted
		{"ring-ref": other.Refs()[0].String()},
		{"port": ""},
		{"port": "0"},
		{"port": "1e3"},
		{"port": "900"}, // never allocated
		{"port": "4294967295"},
		{"ring-ref": "8 ", "port": " 1"},
		{"ring-ref": "8\x00", "port": "1\n"},
	} {
		t.Run(fmt.Sprintf("%q", nodes), func(t *testing.T) {
			c := r.attach(fmt.Sprintf("garbage.%d", i))
			back := r.backend(c, nil)
			f := r.offer(c)
			defer f.Close()
			for name, value := range nodes {
				r.set(r.guest, c.Frontend+"/"+name, value)
			}
			r.set(r.guest, c.Frontend+"/state", "3")
			r.await(c.Backend+"/state", "5")
			if d, _ := r.info(0); d.Mapped != 0 || d.Ports != 0 {
				t.Errorf("something is held for it: %+v", d)
			}
			// The guest's driver hears of it, closes, and is bound again.
			r.set(r.guest, c.Frontend+"/state", "6")
			r.await(c.Backend+"/state", "6")
			r.set(r.guest, c.Frontend+"/state", "1")
			r.await(c.Backend+"/state", "2")
			front := r.frontend(c)
			r.connected(c)
			back.conn(t)
			r.remove(c)
			r.check(back.wait(t))
			r.check(front.wait(t))
		})
	}
}

func TestBackend_garbageInState(t *testing.T) {
	for _, state := range []string{"", "9", "-1", "44", "four", "\x004"} {
		t.Run(fmt.Sprintf("%q", state), func(t *testing.T) {
			r := newRig(t)
			c := r.attach("a")
			r.backend(c, nil)
			r.offer(c)
			r.set(r.guest, c.Frontend+"/state", "3")
			r.await(c.Backend+"/state", "4")
			r.set(r.guest, c.Frontend+"/state", state)
			r.await(c.Backend+"/state", "5")
			eventually(t, "the ring is let go", func() bool { d, _ := r.info(0); return d.Mapped == 0 })
			r.set(r.guest, c.Frontend+"/state", "1")
			r.await(c.Backend+"/state", "2")
			r.frontend(c)
			r.connected(c)
		})
	}
}

// The guest's word on its backend is not taken, and a directory that it hides
// from other domains is still served by domain 0.
func TestBackend_ignoresWhatTheGuestSaysOfIt(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	back, front := r.backend(c, nil), r.frontend(c)
	r.connected(c)
	for _, node := range []string{"backend", "backend-id", "protocol"} {
		r.set(r.guest, c.Frontend+"/"+node, "/local/domain/7/backend/console/7/7")
	}
	r.check(r.guest.SetPerms(t.Context(), c.Frontend, wire.Perms{{Access: wire.AccessNone, DomID: uint16(r.dom.ID)}}))
	r.set(r.guest, c.Frontend+"/state", "4")
	f, b := front.conn(t), back.conn(t)
	write(t, b, []byte("still here"))
	expect(t, f, []byte("still here"))
	r.connected(c)
}

func TestBackend_hostileRing(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	back := r.backend(c, nil)
	pages, err := r.domU.SharePages(0, 1)
	r.check(err)
	defer pages.Close()
	event, err := r.domU.AllocUnbound(0)
	r.check(err)
	defer event.Close()
	publish := func() {
		r.set(r.guest, c.Frontend+"/ring-ref", pages.Refs()[0].String())
		r.set(r.guest, c.Frontend+"/port", event.Port().String())
		r.set(r.guest, c.Frontend+"/state", "3")
	}
	publish()
	r.await(c.Backend+"/state", "4")
	back.conn(t)
	binary.NativeEndian.PutUint32(pages.Bytes()[outProd:], 5000)
	r.check(event.Notify())
	r.await(c.Backend+"/state", "5")
	eventually(t, "the ring is let go", func() bool { d, _ := r.info(0); return d.Mapped == 0 && d.Ports == 0 })

	// The same ring again is refused without another try, until the guest starts anew.
	mapped := r.mapped.Load()
	for range 3 {
		r.set(r.guest, c.Frontend+"/state", "4")
		r.set(r.guest, c.Frontend+"/state", "3")
		time.Sleep(5 * time.Millisecond)
	}
	if n := r.mapped.Load() - mapped; n != 0 {
		t.Errorf("it was mapped %d times more", n)
	}
	r.await(c.Backend+"/state", "5")
	r.set(r.guest, c.Frontend+"/state", "1")
	r.await(c.Backend+"/state", "2")
	publish() // still corrupt: refused when it is attached
	r.await(c.Backend+"/state", "5")
	if len(back.conns) > 0 {
		t.Error("a corrupt ring was attached")
	}
	clear(pages.Bytes()[inCons:])
	r.set(r.guest, c.Frontend+"/state", "1")
	r.await(c.Backend+"/state", "2")
	publish()
	r.await(c.Backend+"/state", "4")
	back.conn(t)
}

// A guest that writes whatever it likes harms its own channel alone.
func TestBackend_randomGuest(t *testing.T) {
	r := newRig(t)
	innocent := r.attach("innocent")
	echo := newEcho(t, r, innocent)
	serial := 0
	rapid.Check(t, func(t *rapid.T) {
		serial++
		c := r.attach(fmt.Sprintf("wild.%d", serial))
		back := r.backend(c, nil)
		front := r.frontend(c)
		node := rapid.SampledFrom([]string{"state", "ring-ref", "port", "backend", "backend-id", "state/x", "ring-ref/y", "zz"})
		value := rapid.OneOf(
			rapid.SampledFrom([]string{"", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "4294967295"}),
			rapid.StringN(0, 20, 60),
		)
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				// Fails once the directory is gone.
				_ = r.guest.Write(r.t.Context(), c.Frontend+"/"+node.Draw(t, "node"), value.Draw(t, "value"))
			},
			"remove a node": func(t *rapid.T) {
				_ = r.guest.Remove(r.t.Context(), c.Frontend+"/"+node.Draw(t, "node"))
			},
			"another ring": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "rare") == 0 {
					r.offerQuietly(c)
				}
			},
			"remove the directory": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "rare") == 0 {
					_ = r.guest.Remove(r.t.Context(), c.Frontend)
				}
			},
		})
		echo(t)
		r.remove(c)
		if err := back.wait(r.t); err != nil {
			t.Fatalf("the backend ended with %v", err)
		}
		front.stop()
		<-front.ended
		if d, _ := r.info(0); d.Mapped != 1 || d.Ports != 1 {
			t.Fatalf("after the wild channel went: %+v", d)
		}
	})
	eventually(t, "the guest's rings are free", func() bool { d, _ := r.info(r.dom.ID); return d.ForeignMaps == 1 })
}

// offerQuietly publishes a good ring at a bad time. It lives as long as the test.
func (r *rig) offerQuietly(c toolstack.Channel) {
	pages, err := r.domU.SharePages(0, 1)
	if err != nil {
		return
	}
	event, err := r.domU.AllocUnbound(0)
	if err != nil {
		pages.Close()
		return
	}
	r.t.Cleanup(func() { event.Close(); pages.Close() })
	ctx := r.t.Context()
	_ = r.guest.Write(ctx, c.Frontend+"/ring-ref", pages.Refs()[0].String())
	_ = r.guest.Write(ctx, c.Frontend+"/port", event.Port().String())
}

// newEcho runs a channel whose guest echoes; the result checks that it still does.
func newEcho(t *testing.T, r *rig, c toolstack.Channel) func(*rapid.T) {
	sink := newMemory(-1)
	back, front := r.backend(c, sink), r.frontend(c)
	r.connected(c)
	b, f := back.conn(t), front.conn(t)
	go io.Copy(f, struct{ io.Reader }{f})
	said := 0
	return func(t *rapid.T) {
		msg := fmt.Appendf(nil, "are you there, %d? ", said)
		if n, err := b.Write(msg); n != len(msg) || err != nil {
			t.Fatalf("the innocent channel: %d, %v", n, err)
		}
		said += len(msg)
		for end := time.Now().Add(10 * time.Second); len(sink.bytes()) < said; time.Sleep(50 * time.Microsecond) {
			if time.Now().After(end) {
				t.Fatal("the innocent channel does not answer")
			}
		}
	}
}

func TestConn_hostileIndexEndsIt(t *testing.T) {
	for _, c := range []struct {
		name string
		at   int
		to   uint32
	}{
		{"too much claimed", outProd, ring.OutSize + 1},
		{"out_prod behind out_cons", outProd, ^uint32(0)},
		{"far away", outProd, 1 << 31},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakes()
			sink := newMemory(-1)
			back := f.attachBack(t, sink)
			// Attached, and waiting: what was pending from the start is dealt with.
			eventually(t, "it waits", func() bool { return f.back.waited.Load() == 2 })
			f.page.set(c.at, c.to)
			f.front.Notify()
			<-back.Failed()
			if !errors.Is(back.Err(), ring.ErrCorrupt) {
				t.Errorf("Err is %v", back.Err())
			}
			waits := f.back.waited.Load()
			for range 100 {
				f.front.Notify()
			}
			time.Sleep(5 * time.Millisecond)
			if n := f.back.waited.Load(); n != waits {
				t.Errorf("it went on to wait %d times", n-waits)
			}
			if len(sink.bytes()) > 0 || f.back.notified.Load() > 0 {
				t.Errorf("%d bytes and %d events came of it", len(sink.bytes()), f.back.notified.Load())
			}
			if _, err := back.TryWrite([]byte("x")); !errors.Is(err, ring.ErrCorrupt) {
				t.Errorf("TryWrite: %v", err)
			}
		})
	}
}

func TestConn_hostileInConsEndsIt(t *testing.T) {
	f := newFakes()
	back := f.attachBack(t, newMemory(-1))
	f.page.set(inCons, 5) // read what was never written
	n, err := back.TryWrite([]byte("x"))
	if n != 0 || !errors.Is(err, ring.ErrCorrupt) {
		t.Errorf("TryWrite: %d, %v", n, err)
	}
	<-back.Failed()
	if _, err := back.Write([]byte("x")); !errors.Is(err, ring.ErrCorrupt) {
		t.Errorf("Write: %v", err)
	}
	if !errors.Is(back.Err(), ring.ErrCorrupt) {
		t.Errorf("Err: %v", back.Err())
	}
}

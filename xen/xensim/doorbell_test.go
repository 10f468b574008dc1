package xensim

import (
	"os"
	"testing"
	"time"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xentest"
)

// Who has not heard of the last event, or does not listen, is not woken for another;
// and what comes while it does not listen is seen once it does.
func TestEnd_ringsOnce(t *testing.T) {
	memory := make([]byte, linkSize)
	for _, slot := range []uint32{0, 63, 64, maxSlots - 1} {
		e, beside := endOf(memory, 1, slot), endOf(memory, 1, slot^1)
		steps := []struct {
			name string
			do   func() bool
			want bool
		}{
			{"send", e.send, true},
			{"send again", e.send, false},
			{"take", e.take, true},
			{"take again", e.take, false},
			{"send to who is masked", e.send, false},
			{"send to the one beside", beside.send, true},
			{"unmask", e.unmask, true},
			{"unmask again", e.unmask, false},
			{"send to who listens", e.send, true},
			{"mask and unmask", func() bool { e.mask(); return e.unmask() }, false},
			{"take from the one beside", beside.take, true},
		}
		for _, s := range steps {
			if got := s.do(); got != s.want {
				t.Fatalf("slot %d, %s: %v", slot, s.name, got)
			}
		}
		beside.unmask()
	}
	for i, b := range memory {
		if b != 0 {
			t.Fatalf("byte %d is left at %x", i, b)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// Further event channels between two domains cost no descriptor, neither these nor the
// host; and all descriptors go with the last of them.
func TestChannels_shareDescriptors(t *testing.T) {
	_, dir, dom := startHost(t)
	front, err := Connect(t.Context(), dir, dom)
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	back, err := Connect(t.Context(), dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	var all []xen.EventChannel
	pair := func() {
		f, err := front.AllocUnbound(0)
		if err != nil {
			t.Fatal(err)
		}
		b, err := back.BindInterdomain(dom, f.Port())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f, b)
	}
	before := descriptors(t)
	pair()
	one := descriptors(t)
	for range 200 { // more than a word has bits
		pair()
	}
	if got := descriptors(t); got != one {
		t.Errorf("%d descriptors with 201 channels, %d with one", got, one)
	}
	for i := 0; i < len(all); i += 2 {
		f, b := xentest.Wait(all[i]), xentest.Wait(all[i+1])
		for _, step := range []func() error{b.Wait, b.Unmask, f.Notify, b.Wait, b.Notify, f.Wait} {
			if err := step(); err != nil {
				t.Fatalf("channel %d: %v", i/2, err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(10 * time.Second); descriptors(t) > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors are left of %d", descriptors(t), before)
		}
	}
}

// A channel that has an event at each look does not keep the others from theirs.
func TestDoorbells_fair(t *testing.T) {
	_, dir, dom := startHost(t)
	front, err := Connect(t.Context(), dir, dom)
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	d, err := newDoorbells()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	// Two links, as of two domains.
	var ends [2]end
	var keys [2]uint32
	for i := range ends {
		words, hs, err := front.call(OpAllocUnbound, 3, uint32(i))
		if err != nil {
			t.Fatal(err)
		}
		l := linkName{front, words[1], 0}
		w, key, err := d.add(l, words[2], hs)
		if err != nil {
			t.Fatal(err)
		}
		defer d.remove(l, words[2], key)
		ends[i], keys[i] = endOf(w.memory.Bytes(), 0, words[2]), key
		if i == 1 { // as its other end would
			ends[i].send()
			if err := w.rx.Signal(); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := make([]uint32, 1)
	ends[0].send()
	d.mu.Lock()
	d.look(d.links[linkName{front, 1, 0}])
	d.mu.Unlock()
	for range 2 * mostFromUs {
		n, err := d.Wait(got, 0)
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}
		if got[0] == keys[1] {
			return
		}
		ends[0].send() // during its turn
		if err := d.Unmask(got); err != nil {
			t.Fatal(err)
		}
	}
	t.Error("the other channel was never reported")
}

package spool

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestOpen_refuses(t *testing.T) {
	const size = 8192
	good := make([]byte, RegionSize(size))
	l, err := Format(Memory{Bytes: good}, size, DropOldest, "web domain 3")
	if err != nil {
		t.Fatal(err)
	}
	l.Append(make([]byte, 3000), 0)
	slot := offState + slotsAfter + int(l.cell.seq%2)*stateSlot
	for _, c := range []struct {
		name, label string
		size        int
		change      func([]byte)
	}{
		{"zeros", "web domain 3", size, func(b []byte) { clear(b) }},
		{"another format", "web domain 3", size, func(b []byte) { b[0]++ }},
		{"another size", "web domain 3", size, func(b []byte) { put(b, offSize, size-8) }},
		{"another label", "web domain 4", size, nil},
		{"a longer label", "web domain 33", size, nil},
		{"a shorter label", "web domain ", size, nil},
		{"no label", "", size, nil},
		{"a label that is too long", "web domain 3", size, func(b []byte) { put(b, offLabel, math.MaxUint64) }},
		{"end", "web domain 3", size, func(b []byte) { put(b, slot, 1<<63) }},
		{"delivered", "web domain 3", size, func(b []byte) { put(b, slot+8, 1) }},
		{"dropped wraps", "web domain 3", size, func(b []byte) { put(b, slot+8, 1); put(b, slot+16, math.MaxUint64) }},
		{"shift", "web domain 3", size, func(b []byte) { put(b, slot+24, 2) }},
		{"a huge shift", "web domain 3", size, func(b []byte) { put(b, slot+24, 64) }},
		{"start", "web domain 3", size, func(b []byte) { put(b, slot+32, size) }},
		{"count", "web domain 3", size, func(b []byte) { put(b, slot+40, size+1); put(b, slot, size+1) }},
		{"flight", "web domain 3", size, func(b []byte) { put(b, slot+48, flightSize) }},
		{"unread", "web domain 3", size, func(b []byte) { put(b, slot+96, 1) }},
		{"in flight", "web domain 3", size, func(b []byte) { put(b, slot+56, math.MaxUint64); put(b, slot, 2999) }},
		{"the other slot", "web domain 3", size, func(b []byte) {
			put(b, offState, l.cell.seq+1)
			put(b, offState+slotsAfter+int((l.cell.seq+1)%2)*stateSlot+40, 77)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := slices.Clone(good)
			if c.change != nil {
				c.change(b)
			}
			if l, err := Open(Memory{Bytes: b}, c.size, DropOldest, c.label); !errors.Is(err, ErrUnusable) || l != nil {
				t.Fatalf("got a log: %v, and %v; want ErrUnusable", l != nil, err)
			}
			l, err := Format(Memory{Bytes: b}, c.size, DropOldest, c.label)
			if err != nil || l.Positions() != (Positions{}) {
				t.Fatalf("begun anew: %v", err)
			}
		})
	}
	if _, err := Open(Memory{Bytes: good}, size, DropOldest, "web domain 3"); err != nil {
		t.Fatal(err)
	}
}

func TestRegion_mustFit(t *testing.T) {
	whole := make([]byte, RegionSize(8192)+1)
	n := len(whole) - 1
	for name, b := range map[string][]byte{"nothing": nil, "short": whole[:n-1], "long": whole, "not aligned": whole[1:]} {
		for f, do := range map[string]func(Memory, int, Overflow, string) (*Log, error){"Open": Open, "Format": Format} {
			if l, err := do(Memory{Bytes: b}, 8192, DropOldest, ""); err == nil || l != nil {
				t.Errorf("%s of memory that is %s: a log: %v, and %v", f, name, l != nil, err)
			}
		}
	}
	if l, err := Format(Memory{Bytes: whole[:n]}, 8192, DropOldest, strings.Repeat("x", maxLabel+1)); err == nil || l != nil {
		t.Error("a label that does not fit was accepted")
	}
	full := strings.Repeat("x", maxLabel)
	if _, err := Format(Memory{Bytes: whole[:n]}, 8192, DropOldest, full); err != nil {
		t.Error(err)
	}
	if _, err := Open(Memory{Bytes: whole[:n]}, 8192, DropOldest, full); err != nil {
		t.Error(err)
	}
}

func TestRegion_withoutMemory(t *testing.T) {
	mem := newHoles(8192)
	mem.limit = 5000
	if l, err := Format(mem.memory(), 8192, DropOldest, ""); err == nil || l != nil {
		t.Fatalf("got a log: %v, and %v", l != nil, err)
	}
}

// Whatever a region holds, it is refused or it is a log like any other.
func FuzzOpen(f *testing.F) {
	const size = 9000
	m := Memory{Bytes: make([]byte, RegionSize(size))}
	l, err := Format(m, size, DropOldest, "fuzz")
	if err != nil {
		f.Fatal(err)
	}
	seed := func() {
		f.Add(slices.Concat(m.Bytes[offState:offLabel], m.Bytes[offLosses:][:slotsAfter+2*lossesSlot]))
	}
	seed()
	l.Append(make([]byte, 3000), 17)
	seed()
	l.Append(make([]byte, 9000), 17)
	l.Peek()
	seed()
	l.Append(make([]byte, 5000), 17)
	l.Advance(1000, 0)
	seed()
	f.Add([]byte{})
	header := slices.Clone(m.Bytes[:flightAt])
	f.Fuzz(func(t *testing.T, p []byte) {
		b := make([]byte, RegionSize(size))
		copy(b, header)
		n := copy(b[offState:offLabel], p)
		copy(b[offLosses:inboxAt], p[n:])
		l, err := Open(Memory{Bytes: b}, size, DropOldest, "fuzz")
		if err != nil {
			if l != nil || !errors.Is(err, ErrUnusable) {
				t.Fatalf("got a log: %v, and %v", l != nil, err)
			}
			return
		}
		taken := l.Attach(RingID{}, 0, 2048)
		if taken < 0 || taken > 2048 {
			t.Fatalf("a ring of 2048 bytes is to skip %d", taken)
		}
		l.Settle()
		l.Unload()
		in := l.Inbox()
		in.Restart()
		in.Attach(RingID{}, 0)
		in.Advance(len(in.Next()))
		in.Begin(1)
		for i := range 20 {
			if n := l.Append(make([]byte, 700*i), 0); n != 700*i {
				t.Fatalf("took %d bytes of %d", n, 700*i)
			}
			l.Advance(len(l.Peek())/2, 0)
			if p := l.Positions(); p.Delivered+p.Dropped+p.Skipped+p.Spooled != p.End || p.Spooled > size+flightSize || p.Dropped < 0 {
				t.Fatalf("positions %+v", p)
			}
		}
		at := int64(0)
		for _, x := range l.LatestLosses() {
			if x.Bytes <= 0 || x.From < at || x.Bytes > x.To-x.From || x.To > l.Positions().End {
				t.Fatalf("losses %+v, positions %+v", l.LatestLosses(), l.Positions())
			}
			at = x.To
		}
		if l.Positions().End > maxPosition || in.Total() > maxPosition {
			return // no guest gets there in its life; it was near when it was opened
		}
		if _, err := Open(Memory{Bytes: b}, size, DropOldest, "fuzz"); err != nil {
			t.Fatalf("a log in use is refused: %v", err)
		}
	})
}

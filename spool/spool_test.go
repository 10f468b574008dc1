package spool

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func mustNew(t testing.TB, size int, policy Overflow) *Log {
	t.Helper()
	l, err := New(size, policy)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestNew_refusesTinySizes(t *testing.T) {
	if l, err := New(10, DropOldest); err == nil || l != nil {
		t.Fatalf("got %v, %v", l, err)
	}
}

// The log against a model: a list of bytes, each with its position.
func TestLog_matchesModel(t *testing.T) {
	for name, policy := range map[string]Overflow{"drop-oldest": DropOldest, "block": Block} {
		t.Run(name, func(t *testing.T) { rapid.Check(t, func(t *rapid.T) { checkModel(t, policy) }) })
	}
}

func checkModel(t *rapid.T, policy Overflow) {
	size := rapid.SampledFrom([]int{4096, 5000, 40000, 70000}).Draw(t, "size")
	l, err := New(size, policy)
	if err != nil {
		t.Fatal(err)
	}
	var (
		kept, flight []byte // model
		next         byte
		pos          Positions
	)
	t.Repeat(map[string]func(*rapid.T){
		"append": func(t *rapid.T) {
			p := make([]byte, rapid.IntRange(0, size+size/2).Draw(t, "n"))
			for i := range p {
				p[i] = next
				next++
			}
			want := len(p)
			if policy == Block {
				want = min(want, size-len(kept))
				next -= byte(len(p) - want)
			}
			kept = append(kept, p[:want]...)
			if over := len(kept) - size; over > 0 {
				kept = kept[over:]
				pos.Dropped += int64(over)
			}
			pos.End += int64(want)
			if got := l.Append(p); got != want {
				t.Fatalf("Append took %d of %d, want %d", got, len(p), want)
			}
		},
		"peek": func(t *rapid.T) {
			if len(flight) == 0 {
				n := min(len(kept), maxFlight)
				flight, kept = kept[:n:n], kept[n:]
			}
			if got := l.Peek(); !bytes.Equal(got, flight) {
				t.Fatalf("Peek gave %d bytes, want %d, or other bytes", len(got), len(flight))
			}
		},
		"advance": func(t *rapid.T) {
			n := rapid.IntRange(0, len(flight)).Draw(t, "n")
			flight = flight[n:]
			pos.Delivered += int64(n)
			l.Advance(n)
		},
		"": func(t *rapid.T) {
			pos.Spooled = int64(len(kept) + len(flight))
			got := l.Positions()
			if got != pos {
				t.Fatalf("positions %+v, want %+v", got, pos)
			}
			if got.Delivered+got.Dropped+got.Spooled != got.End {
				t.Fatalf("positions %+v do not add up", got)
			}
		},
	})
}

// What a reader was shown must not change under it while the log overflows.
func TestPeek_isStableUnderOverflow(t *testing.T) {
	l := mustNew(t, 4096, DropOldest)
	l.Append(bytes.Repeat([]byte{'a'}, 4096))
	p := l.Peek()
	l.Append(bytes.Repeat([]byte{'b'}, 10000))
	if !bytes.Equal(p, bytes.Repeat([]byte{'a'}, 4096)) {
		t.Fatal("bytes in flight were overwritten")
	}
	l.Advance(len(p))
	if got := l.Positions(); got != (Positions{End: 14096, Delivered: 4096, Spooled: 4096, Dropped: 5904}) {
		t.Fatalf("positions %+v", got)
	}
}

func TestLog_givesMemoryBackWhenIdle(t *testing.T) {
	l := mustNew(t, 1<<20, DropOldest)
	l.Append(make([]byte, 1<<20))
	for p := l.Peek(); p != nil; p = l.Peek() {
		l.Advance(len(p))
	}
	if len(l.buf)+len(l.block) > 2*keepIdle {
		t.Fatalf("an empty log holds %d bytes", len(l.buf)+len(l.block))
	}
}

// A writer and a reader at once, with the signals only: no wake-up is lost.
func TestLog_concurrent(t *testing.T) {
	l := mustNew(t, 8192, Block)
	want := make([]byte, 4<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	rnd.Read(want)
	go func() {
		for p := want; len(p) > 0; {
			n := l.Append(p[:min(len(p), 3000)])
			if p = p[n:]; n == 0 {
				<-l.Room()
			}
		}
	}()
	var got []byte
	for len(got) < len(want) {
		p := l.Peek()
		if p == nil {
			<-l.Data()
			continue
		}
		p = p[:min(len(p), 1+rand.IntN(5000))]
		got = append(got, p...)
		l.Advance(len(p))
	}
	if !bytes.Equal(got, want) {
		t.Fatal("bytes differ")
	}
}

func BenchmarkLog(b *testing.B) {
	l := mustNew(b, 1<<20, DropOldest)
	p := make([]byte, 2048)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		l.Append(p)
		l.Advance(len(l.Peek()))
	}
}

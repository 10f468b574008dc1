package ring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"pgregory.net/rapid"
)

// heapPage is a page the race detector can see.
func heapPage() []byte { return make([]byte, PageSize) }

type ends struct {
	page   []byte
	bc, fc *Consumer
	bp, fp *Producer
}

func pair(t testing.TB, page []byte) ends {
	t.Helper()
	e := ends{page: page}
	var err error
	if e.bc, e.bp, err = Backend(page); err != nil {
		t.Fatal(err)
	}
	if e.fc, e.fp, err = Frontend(page); err != nil {
		t.Fatal(err)
	}
	return e
}

func put(page []byte, off int, v uint32) { binary.NativeEndian.PutUint32(page[off:], v) }
func get(page []byte, off int) uint32    { return binary.NativeEndian.Uint32(page[off:]) }

func TestPage_layoutIsXens(t *testing.T) {
	e := pair(t, heapPage())
	if n, _ := e.bp.Write([]byte("to guest")); n != 8 {
		t.Fatalf("wrote %d bytes", n)
	}
	if n, _ := e.fp.Write([]byte("to host!!")); n != 9 {
		t.Fatalf("wrote %d bytes", n)
	}
	if got := string(e.page[0:8]); got != "to guest" {
		t.Errorf("in ring begins with %q", got)
	}
	if got := string(e.page[1024:1033]); got != "to host!!" {
		t.Errorf("out ring begins with %q", got)
	}
	e.bc.Consume(4)
	e.fc.Consume(2)
	for _, f := range []struct {
		name string
		off  int
		want uint32
	}{{"in_cons", 3072, 2}, {"in_prod", 3076, 8}, {"out_cons", 3080, 4}, {"out_prod", 3084, 9}} {
		if got := get(e.page, f.off); got != f.want {
			t.Errorf("%s = %d, want %d", f.name, got, f.want)
		}
	}
}

func TestOpen_refusesOtherSizes(t *testing.T) {
	for _, p := range [][]byte{nil, make([]byte, 4095), make([]byte, 8192), make([]byte, 4104)[1:4097]} {
		if _, _, err := Backend(p); err == nil {
			t.Errorf("a page of %d bytes was accepted", len(p))
		}
	}
}

func TestBackend_takesOverIndices(t *testing.T) {
	e := pair(t, heapPage())
	e.fp.Write([]byte("abcdef"))
	buf := make([]byte, 3)
	e.bc.Peek(buf)
	e.bc.Consume(3)
	again, _, err := Backend(e.page)
	if err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, 10)
	n, err := again.Peek(rest)
	if err != nil || string(rest[:n]) != "def" {
		t.Fatalf("a second backend read %q, %v; want the bytes the first left", rest[:n], err)
	}
}

// A guest may write any index at any time.
func TestHostilePeer(t *testing.T) {
	cases := []struct {
		name string
		off  int
		val  uint32
		use  func(ends) error
	}{
		{"out_prod ahead", offOutProd, OutSize + 1, func(e ends) error { _, err := e.bc.Len(); return err }},
		{"out_prod behind", offOutProd, ^uint32(0), func(e ends) error { _, err := e.bc.Peek(make([]byte, 9)); return err }},
		{"in_cons ahead of in_prod", offInCons, 1, func(e ends) error { _, err := e.bp.Write([]byte("x")); return err }},
		{"in_cons far behind", offInCons, ^uint32(InSize), func(e ends) error { _, err := e.bp.Free(); return err }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e := pair(t, heapPage())
			put(e.page, c.off, c.val)
			if err := c.use(e); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("got %v, want ErrCorrupt", err)
			}
			put(e.page, c.off, 0) // a guest that repents is not believed
			if err := c.use(e); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("after mending got %v, want ErrCorrupt for ever", err)
			}
			if _, _, err := Backend(corrupt(c.off, c.val)); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("opening gave %v, want ErrCorrupt", err)
			}
		})
	}
	t.Run("own indices rewritten", func(t *testing.T) {
		e := pair(t, heapPage())
		e.fp.Write([]byte("abc"))
		put(e.page, offOutCons, 77)
		buf := make([]byte, 8)
		n, err := e.bc.Peek(buf)
		if err != nil || string(buf[:n]) != "abc" {
			t.Fatalf("read %q, %v; the backend must use its private index", buf[:n], err)
		}
		put(e.page, offInProd, 99)
		if n, err := e.bp.Write([]byte("xyz")); n != 3 || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
		if got := get(e.page, offInProd); got != 3 {
			t.Fatalf("in_prod = %d, want the private index 3", got)
		}
	})
}

func corrupt(off int, v uint32) []byte {
	p := heapPage()
	put(p, off, v)
	return p
}

// The ring is a queue, also across the wrap of indices at 2^32.
func TestRing_isAQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		page := heapPage()
		start := rapid.SampledFrom([]uint32{0, 1, ^uint32(0), ^uint32(0) - 1000}).Draw(t, "start")
		put(page, offOutCons, start)
		put(page, offOutProd, start)
		out, _, err := Backend(page)
		if err != nil {
			t.Fatal(err)
		}
		_, in, err := Frontend(page)
		if err != nil {
			t.Fatal(err)
		}
		var model []byte
		var b byte
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				p := make([]byte, rapid.IntRange(0, 3000).Draw(t, "n"))
				for i := range p {
					p[i] = b + byte(i)
				}
				n, err := in.Write(p)
				if err != nil || n != min(len(p), OutSize-len(model)) {
					t.Fatalf("wrote %d of %d with %d in the ring: %v", n, len(p), len(model), err)
				}
				model, b = append(model, p[:n]...), b+byte(n)
			},
			"read": func(t *rapid.T) {
				p := make([]byte, rapid.IntRange(0, 3000).Draw(t, "n"))
				n, err := out.Peek(p)
				if err != nil || !bytes.Equal(p[:n], model[:min(len(p), len(model))]) {
					t.Fatalf("peeked %d bytes, %v; model has %d", n, err, len(model))
				}
				take := rapid.IntRange(0, n).Draw(t, "take")
				out.Consume(take)
				model = model[take:]
			},
			"": func(t *rapid.T) {
				if n, err := out.Len(); err != nil || n != len(model) {
					t.Fatalf("Len %d, %v; model has %d", n, err, len(model))
				}
			},
		})
	})
}

// Two goroutines on a heap page: the race detector checks the ordering.
func TestRing_concurrent(t *testing.T) {
	e := pair(t, heapPage())
	const total = 1 << 20
	go func() {
		rnd := rand.New(rand.NewPCG(1, 2))
		p := make([]byte, 600)
		for sent := 0; sent < total; {
			n := min(1+rnd.IntN(len(p)), total-sent)
			for i := range n {
				p[i] = byte((sent + i) * 7)
			}
			for q := p[:n]; len(q) > 0; {
				k, err := e.fp.Write(q)
				if err != nil {
					t.Error(err)
					return
				}
				q = q[k:]
				if k == 0 {
					runtime.Gosched()
				}
			}
			sent += n
		}
	}()
	p := make([]byte, 700)
	for got := 0; got < total; {
		n, err := e.bc.Peek(p)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if p[i] != byte((got+i)*7) {
				t.Fatalf("byte %d is wrong", got+i)
			}
		}
		e.bc.Consume(n)
		got += n
		if n == 0 {
			runtime.Gosched()
		}
	}
}

// Whatever the guest writes into the page, nothing panics and nothing is
// returned that was not in the ring.
func FuzzHostilePage(f *testing.F) {
	f.Add(uint32(0), uint32(0), uint32(0), uint32(0), uint16(10))
	f.Add(uint32(5), ^uint32(0), uint32(2048), uint32(1), uint16(4000))
	f.Fuzz(func(t *testing.T, inCons, outProd, inCons2, outProd2 uint32, n uint16) {
		page := heapPage()
		put(page, offInCons, inCons)
		put(page, offOutProd, outProd)
		c, p, err := Backend(page)
		if err != nil {
			if c != nil || p != nil {
				t.Fatal("an error came with a value")
			}
			return
		}
		buf := make([]byte, n)
		for range 3 {
			got, err := c.Peek(buf)
			if err == nil && got > OutSize {
				t.Fatalf("peeked %d bytes out of a ring of %d", got, OutSize)
			}
			if err == nil {
				c.Consume(got)
			}
			if k, err := p.Write(buf); err == nil && k > InSize {
				t.Fatalf("wrote %d bytes into a ring of %d", k, InSize)
			}
			put(page, offInCons, inCons2)
			put(page, offOutProd, outProd2)
		}
	})
}

func BenchmarkRing(b *testing.B) {
	e := pair(b, heapPage())
	p, q := make([]byte, 256), make([]byte, 2048)
	b.SetBytes(2048)
	for b.Loop() {
		for range 8 {
			e.fp.Write(p)
		}
		n, _ := e.bc.Peek(q)
		e.bc.Consume(n)
	}
}

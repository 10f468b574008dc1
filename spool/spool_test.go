package spool

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
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
	for _, size := range []int{-1, 0, 10, minBuffer - 1} {
		if l, err := New(size, DropOldest); err == nil || l != nil {
			t.Fatalf("a log of %d bytes: got one: %v, and %v", size, l != nil, err)
		}
	}
}

// model is a log as a list of bytes, with a ring whose page the model has too.
type model struct {
	size         int
	policy       Overflow
	kept, flight []byte
	unread       []byte // of what was delivered, what can be returned
	next         byte
	pos          Positions
	ring         RingID
	cons         uint32  // by the page
	unsettled    int     // bytes in the log that the page does not show as taken
	lost         []int64 // positions of what was dropped since they were last taken
	latest       []Loss  // the last stretches that were dropped
}

// append gives the bytes that come next and how many a log must take.
func (m *model) append(n int) (p []byte, took int) {
	p = make([]byte, n)
	for i := range p {
		p[i] = m.next + byte(i)
	}
	took = n
	if m.policy == Block {
		took = min(n, m.size-len(m.kept))
	}
	m.next += byte(took)
	m.kept = append(m.kept, p[:took]...)
	if over := len(m.kept) - m.size; over > 0 {
		oldest := m.pos.End + int64(took) - int64(len(m.kept))
		for i := range over {
			m.lost = append(m.lost, oldest+int64(i))
		}
		m.kept = m.kept[over:]
		m.pos.Dropped += int64(over)
		if last := len(m.latest) - 1; last >= 0 && m.latest[last].To == oldest {
			oldest = m.latest[last].From
			m.latest = m.latest[:last]
		}
		to := m.pos.End + int64(took) - int64(len(m.kept))
		m.latest = append(m.latest, Loss{Bytes: to - oldest, From: oldest, To: to})
		m.latest = m.latest[max(0, len(m.latest)-maxLosses):]
	}
	m.pos.End += int64(took)
	return p, took
}

func (m *model) peek() []byte {
	if len(m.flight) == 0 {
		n := min(len(m.kept), maxFlight)
		m.flight, m.kept = m.kept[:n:n], m.kept[n:]
	}
	return m.flight
}

func (m *model) advance(n, unread int) {
	m.unread = append(m.unread, m.flight[:n]...)
	m.readAllBut(min(unread, MaxUnread))
	m.flight = m.flight[n:]
	m.pos.Delivered += int64(n)
}

func (m *model) readAllBut(n int) { m.unread = m.unread[max(0, len(m.unread)-n):] }

func (m *model) positions() Positions {
	p := m.pos
	p.Spooled = int64(len(m.kept) + len(m.flight))
	return p
}

// checkLosses compares what a log says was dropped with the very positions.
func (m *model) checkLosses(t *rapid.T, got []Loss) {
	for i, g := range got {
		n := int(g.Bytes)
		if n <= 0 || n > len(m.lost) || m.lost[0] != g.From || m.lost[n-1] != g.To-1 {
			t.Fatalf("loss %d is %+v, the positions are %v", i, g, m.lost)
		}
		if last := i == maxLosses-1; !last && g.Bytes != g.To-g.From {
			t.Fatalf("loss %d is %+v, which has bytes in it that were kept", i, g)
		}
		m.lost = m.lost[n:]
	}
	if len(m.lost) > 0 || len(got) > maxLosses {
		t.Fatalf("%d losses, and the positions %v are in none", len(got), m.lost)
	}
}

// Stretches that nobody asks for are joined, and still counted to the byte.
func TestLog_lossesAreBounded(t *testing.T) {
	l := mustNew(t, minBuffer, DropOldest)
	l.Append(make([]byte, minBuffer), 0)
	want := int64(0)
	for range 3 * maxLosses {
		l.Append(make([]byte, 10), 0) // drops ten
		l.Advance(len(l.Peek()), 0)   // and ends the stretch
		l.Append(make([]byte, minBuffer), 0)
		want += 10
	}
	<-l.Losses()
	got := l.TakeLosses()
	var sum int64
	for _, g := range got {
		sum += g.Bytes
	}
	if len(got) != maxLosses || sum != want || got[0] != (Loss{Bytes: 10, From: 0, To: 10}) {
		t.Errorf("%d losses of %d bytes, want %d of %d; the first is %+v", len(got), sum, maxLosses, want, got[0])
	}
	if again := l.TakeLosses(); again != nil {
		t.Errorf("told twice: %v", again)
	}
}

// The log against a model, through crashes at random points.
func TestLog_matchesModel(t *testing.T) {
	for name, policy := range map[string]Overflow{"drop-oldest": DropOldest, "block": Block} {
		t.Run(name, func(t *testing.T) { rapid.Check(t, func(t *rapid.T) { checkModel(t, policy) }) })
	}
}

func FuzzModel(f *testing.F) {
	f.Add(make([]byte, 4096))
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) {
		checkModel(t, rapid.SampledFrom([]Overflow{DropOldest, Block}).Draw(t, "policy"))
	}))
}

func checkModel(t *rapid.T, policy Overflow) {
	size := rapid.SampledFrom([]int{4096, 5000, 8191, 40000, 70000, 300001}).Draw(t, "size")
	mem := newHoles(size)
	l, err := Format(mem.memory(), size, policy, "a label")
	if err != nil {
		t.Fatal(err)
	}
	m := &model{size: size, policy: policy, cons: rapid.Uint32().Draw(t, "index")}
	l.Attach(m.ring, m.cons, 0)
	settle := func() {
		m.cons += uint32(m.unsettled)
		m.unsettled = 0
		l.Settle()
	}
	t.Repeat(map[string]func(*rapid.T){
		"append": func(t *rapid.T) {
			settle()
			p, want := m.append(rapid.IntRange(0, size+size/2).Draw(t, "n"))
			if got := l.Append(p, m.cons); got != want {
				t.Fatalf("Append took %d of %d, want %d", got, len(p), want)
			}
			m.unsettled = want
		},
		"peek": func(t *rapid.T) {
			want := m.peek()
			if got := l.Peek(); !bytes.HasPrefix(want, got) || len(got) == 0 && len(want) > 0 || len(got) > maxFlight {
				t.Fatalf("Peek gave %d bytes of %d, or other bytes", len(got), len(want))
			}
		},
		"advance": func(t *rapid.T) {
			n := rapid.IntRange(0, len(m.flight)).Draw(t, "n")
			if unread := rapid.IntRange(0, 50_000).Draw(t, "unread"); n > 0 {
				m.advance(n, unread)
				l.Advance(n, unread)
			}
		},
		"unread": func(t *rapid.T) {
			unread := rapid.IntRange(0, 50_000).Draw(t, "unread")
			m.readAllBut(unread)
			l.Unread(unread)
		},
		"return": func(t *rapid.T) {
			want := len(m.unread)
			m.flight = append(m.unread, m.flight...)
			m.pos.Delivered -= int64(want)
			m.unread = nil
			if got := l.Return(); got != want {
				t.Fatalf("%d bytes are returned, want %d", got, want)
			}
		},
		"settle": func(*rapid.T) { settle() },
		"skip": func(t *rapid.T) {
			unread := rapid.IntRange(0, int(min(m.pos.Delivered, 5000))).Draw(t, "unread")
			want := int64(len(m.kept)+len(m.flight)) + int64(unread)
			m.kept, m.flight, m.unread = nil, nil, nil
			m.pos.Delivered -= int64(unread)
			m.pos.Skipped += want
			if got := l.Skip(unread); got != want {
				t.Fatalf("%d bytes are skipped, want %d", got, want)
			}
		},
		"losses": func(t *rapid.T) { m.checkLosses(t, l.TakeLosses()) },
		"crash": func(t *rapid.T) {
			if rapid.Bool().Draw(t, "the page knows") {
				m.cons += uint32(m.unsettled) // but the log does not know that it does
				m.unsettled = 0
			}
			if l, err = Open(mem.memory(), size, policy, "a label"); err != nil {
				t.Fatal(err)
			}
			want := m.unsettled
			if rapid.IntRange(0, 3).Draw(t, "another ring") == 0 {
				m.ring.Port++
				m.unsettled, want = 0, 0
			}
			if got := l.Attach(m.ring, m.cons, m.unsettled+rapid.IntRange(0, 2048).Draw(t, "more")); got != want {
				t.Fatalf("a ring at %d was to skip %d bytes, want %d", m.cons, got, want)
			}
			settle()
			m.lost = nil // LatestLosses has them
		},
		"": func(t *rapid.T) {
			got := l.Positions()
			if got != m.positions() {
				t.Fatalf("positions %+v, want %+v", got, m.positions())
			}
			if got := l.LatestLosses(); !slices.Equal(got, m.latest) {
				t.Fatalf("the latest losses are %v, want %v", got, m.latest)
			}
			if got.Delivered+got.Dropped+got.Skipped+got.Spooled != got.End {
				t.Fatalf("positions %+v do not add up", got)
			}
		},
	})
}

// What a reader was shown must not change under it while the log overflows.
func TestPeek_isStableUnderOverflow(t *testing.T) {
	l := mustNew(t, 4096, DropOldest)
	l.Append(bytes.Repeat([]byte{'a'}, 4096), 0)
	p := l.Peek()
	l.Append(bytes.Repeat([]byte{'b'}, 10000), 0)
	if !bytes.Equal(p, bytes.Repeat([]byte{'a'}, 4096)) {
		t.Fatal("bytes in flight were overwritten")
	}
	l.Advance(len(p), 0)
	if got := l.Positions(); got != (Positions{End: 14096, Delivered: 4096, Spooled: 4096, Dropped: 5904}) {
		t.Fatalf("positions %+v", got)
	}
}

func TestAdvance_beyondWhatWasShown(t *testing.T) {
	l := mustNew(t, 4096, DropOldest)
	l.Append([]byte("abc"), 0)
	l.Peek()
	for _, n := range []int{4, -1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Advance(%d) of 3 bytes was accepted", n)
				}
			}()
			l.Advance(n, 0)
		}()
	}
}

// Without a crash in the middle there is nothing to skip, whatever ring comes next.
func TestAttach_ringOfARestartedGuest(t *testing.T) {
	id := RingID{Ref: 8, Port: 8}
	l := mustNew(t, 4096, DropOldest)
	l.Attach(id, 0, 0)
	l.Append([]byte("login: "), 0)
	l.Settle()
	// Linux uses the same numbers again, and a new ring stands at 0.
	if skip := l.Attach(id, 0, 20); skip != 0 {
		t.Fatalf("%d bytes of a new ring were taken for old ones", skip)
	}
}

func TestAttach_afterACrash(t *testing.T) {
	id := RingID{Ref: 8, Port: 9}
	for _, c := range []struct {
		name string
		id   RingID
		at   uint32
		held int
		want int
	}{
		{"the page does not know", id, 0xffff_fffe, 7, 7},
		{"the page does not know and there is more", id, 0xffff_fffe, 2048, 7},
		{"the page knows", id, 5, 0, 0},
		{"the page knows and there is more", id, 5, 100, 0},
		{"holds less than was taken from it", id, 0xffff_fffe, 6, 0},
		{"another reference", RingID{Ref: 9, Port: 9}, 0xffff_fffe, 7, 0},
		{"another port", RingID{Ref: 8, Port: 8}, 0xffff_fffe, 7, 0},
		{"stands elsewhere", id, 0, 7, 0},
		{"nonsense", id, 0xffff_fffe, -1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := Memory{Bytes: make([]byte, RegionSize(4096))}
			l, err := Format(m, 4096, DropOldest, "")
			if err != nil {
				t.Fatal(err)
			}
			l.Attach(id, 0xffff_fffe, 0)
			l.Append([]byte("login: "), 0xffff_fffe)
			if l, err = Open(m, 4096, DropOldest, ""); err != nil {
				t.Fatal(err)
			}
			if got := l.Attach(c.id, c.at, c.held); got != c.want {
				t.Fatalf("skips %d bytes, want %d", got, c.want)
			}
			l.Settle()
			if got := l.Attach(id, 0xffff_fffe, 7); got != 0 {
				t.Fatalf("skips %d bytes a second time", got)
			}
		})
	}
}

// Memory that cannot be had makes the log smaller, and no byte goes uncounted.
func TestLog_withoutMemory(t *testing.T) {
	const size = 64 << 10
	mem := newHoles(size)
	mem.limit = dataAt + 16<<10
	l, err := Format(mem.memory(), size, DropOldest, "")
	if err != nil {
		t.Fatal(err)
	}
	in := make([]byte, 40<<10)
	rand.NewChaCha8([32]byte{2}).Read(in)
	for i := 0; i < len(in); i += 2048 {
		l.Append(in[i:i+2048], 0)
	}
	if got := l.Positions(); got != (Positions{End: 40 << 10, Spooled: 16 << 10, Dropped: 24 << 10}) {
		t.Fatalf("positions %+v", got)
	}
	var out []byte
	for p := l.Peek(); p != nil; p = l.Peek() {
		out = append(out, p...)
		l.Advance(len(p), 0)
	}
	if !bytes.Equal(out, in[24<<10:]) {
		t.Fatal("these are not the youngest bytes")
	}
	mem.limit = 1 << 30 // there is memory again
	l.Append(in, 0)
	if got := l.Positions(); got.Spooled != 40<<10 {
		t.Fatalf("positions %+v", got)
	}
}

// The same for the place where the reader is shown bytes: it sees fewer at a time.
func TestPeek_withoutMemory(t *testing.T) {
	m := newHoles(64 << 10).memory()
	reserve := m.Reserve
	m.Reserve = func(off, n int) error {
		if off > flightAt && off < dataAt {
			return errors.New("no space left on device")
		}
		return reserve(off, n)
	}
	l, err := Format(m, 64<<10, DropOldest, "")
	if err != nil {
		t.Fatal(err)
	}
	in := make([]byte, 40_000)
	rand.NewChaCha8([32]byte{3}).Read(in)
	l.Append(in, 0)
	var out []byte
	for p := l.Peek(); p != nil; p = l.Peek() {
		if len(p) > minBuffer {
			t.Fatalf("%d bytes are shown where there is place for %d", len(p), minBuffer)
		}
		out = append(out, p...)
		l.Advance(len(p), 0)
	}
	if !bytes.Equal(out, in) {
		t.Fatal("bytes differ")
	}
}

func TestLog_touchesLittle(t *testing.T) {
	const size = 1 << 20
	mem := newHoles(size)
	l, err := Format(mem.memory(), size, DropOldest, "")
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 2048)
	for range 5000 { // a client that keeps up, more or less
		l.Append(p, 0)
		l.Append(p, 0)
		l.Advance(len(l.Peek()), 0)
	}
	if got := mem.pages(); got > 4 { // header, inbox, flight, data
		t.Fatalf("a channel that is read has touched %d pages", got)
	}
	l.Append(make([]byte, size), 0)
	if got := mem.pages(); got < size/4096 {
		t.Fatalf("only %d pages were reserved for %d bytes", got, size)
	}
	for p := l.Peek(); p != nil; p = l.Peek() {
		l.Advance(len(p), 0)
	}
	if got := mem.pages(); got > 2+(maxFlight+keepIdle)/4096 {
		t.Fatalf("an empty log keeps %d pages", got)
	}
	if _, err := Open(mem.memory(), size, DropOldest, ""); err != nil {
		t.Fatal(err)
	}
	if got := mem.pages(); got > 11 {
		t.Fatalf("an empty log was opened with %d pages", got)
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
			n := l.Append(p[:min(len(p), 3000)], 0)
			l.Settle()
			l.Flush()
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
		l.Advance(len(p), 0)
		l.Positions()
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
		l.Append(p, 0)
		l.Settle()
		l.Advance(len(l.Peek()), 0)
	}
}

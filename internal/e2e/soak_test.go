package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/toolstack"
)

// number is an environment variable of `make soak`, or what it is otherwise.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// soak is what a soak test is made of, all of it from one seed.
type soak struct {
	*host
	rnd   *rand.Rand
	seed  uint64
	kills int
	least int64 // bytes each way over each channel
}

// perKill is how many bytes go each way for each kill, over all channels.
const perKill = 256 << 20 / 1000

func newSoak(t *testing.T, channels int, h func() *host) *soak {
	t.Helper()
	s := &soak{seed: number(t, "SEED", rand.Uint64()), kills: int(number(t, "KILLS", 50))}
	t.Logf("SEED=%d KILLS=%d", s.seed, s.kills)
	s.rnd = rand.New(rand.NewPCG(s.seed, 0))
	s.least = int64(s.kills) * perKill / int64(channels)
	s.host = h()
	return s
}

// nextDaemon waits for a daemon other than the last.
func (s *soak) nextDaemon(last int) (pid int) {
	s.t.Helper()
	s.eventually("another daemon", func() bool {
		pid = s.pid("daemon")
		return pid != last && runs(pid)
	})
	return pid
}

// killDaemons kills one daemon after the other, some before they have begun to
// serve. A few are told to stop instead.
func (s *soak) killDaemons() {
	s.t.Helper()
	last := 0
	for i := range s.kills {
		pid := s.nextDaemon(last)
		time.Sleep(time.Duration(s.rnd.IntN(120)) * time.Millisecond)
		how := syscall.SIGKILL
		if s.rnd.IntN(20) == 0 {
			how = syscall.SIGTERM
		}
		if err := syscall.Kill(pid, how); err != nil {
			s.t.Fatalf("daemon %d had ended of itself, at kill %d: %v", pid, i, err)
		}
		last = pid
		if s.t.Failed() {
			s.t.Fatalf("at kill %d", i)
		}
	}
	s.nextDaemon(last)
}

// flow is one direction of one channel: bytes without a period, in pieces of any
// size, until it is told to stop.
type flow struct {
	name       string
	seed       uint64
	least      int64
	sent, came atomic.Int64
	stop       atomic.Bool
	ended      chan struct{} // closed when all is sent
}

func (s *soak) flow(name string) *flow {
	return &flow{name: name, seed: s.rnd.Uint64(), least: s.least, ended: make(chan struct{})}
}

// fill is what the flow has from a position on: splitmix64 of every eighth position.
func (f *flow) fill(p []byte, at int64) {
	var word uint64
	for i := range p {
		pos := uint64(at) + uint64(i)
		if i == 0 || pos%8 == 0 {
			word = f.seed + (pos/8+1)*0x9e3779b97f4a7c15
			word = (word ^ word>>30) * 0xbf58476d1ce4e5b9
			word = (word ^ word>>27) * 0x94d049bb133111eb
			word ^= word >> 31
		}
		p[i] = byte(word >> (pos % 8 * 8))
	}
}

// same is how many of the bytes are those of the flow from a position on.
func (f *flow) same(got []byte, at int64) int {
	want := make([]byte, len(got))
	f.fill(want, at)
	for i := range got {
		if got[i] != want[i] {
			return i
		}
	}
	return len(got)
}

// send writes until the flow is stopped and has sent the least that it must.
func (f *flow) send(w io.Writer) error {
	defer close(f.ended)
	sizes := rand.New(rand.NewPCG(f.seed, 1))
	for !f.stop.Load() || f.sent.Load() < f.least {
		p := make([]byte, 1+sizes.IntN(16<<10)>>sizes.IntN(14))
		f.fill(p, f.sent.Load())
		n, err := w.Write(p)
		f.sent.Add(int64(n))
		if err != nil {
			return fmt.Errorf("%s: write after %d bytes: %w", f.name, f.sent.Load(), err)
		}
	}
	return nil
}

// receive reads until all that was sent has come, and a moment longer. The first
// byte that is not the next one of the flow is an error.
func (f *flow) receive(r io.Reader, deadline func(time.Time) error) error {
	got := make([]byte, 64<<10)
	for {
		deadline(time.Now().Add(50 * time.Millisecond))
		n, err := r.Read(got)
		at := f.came.Load()
		if same := f.same(got[:n], at); same < n {
			return fmt.Errorf("%s: byte %d is not what was sent: lost, twice or out of order", f.name, at+int64(same))
		}
		f.came.Store(at + int64(n))
		switch {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("%s: read after %d bytes: %w", f.name, f.came.Load(), err)
		case f.complete():
			return nil // and nothing more came
		}
	}
}

func (f *flow) complete() bool { return isDone(f.ended) && f.came.Load() == f.sent.Load() }

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// deadliner is a connection or a terminal.
type deadliner interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// A thousand daemons are killed, or fifty, while eight channels are used both ways.
// Clients, on sockets and on terminals, do not notice: every byte arrives once.
func TestSoak_connectionsSurvive(t *testing.T) {
	var domains []sim.Domain
	for _, name := range []string{"red", "blue"} {
		d := sim.Domain{Name: name}
		for i := range 4 {
			spec := channel.Spec{Name: fmt.Sprint("c", i), Connection: channel.Socket, Overflow: channel.Block}
			if i == 3 {
				spec.Connection = channel.PTY
			}
			d.Channels = append(d.Channels, spec)
		}
		domains = append(domains, d)
	}
	s := newSoak(t, 8, func() *host { return start(t, domains...) })
	ends := time.Now().Add(10*time.Minute + time.Duration(s.kills)*time.Second)
	errs := make(chan error, 64)
	var flows []*flow
	type row struct {
		toolstack.Channel
		ways [2]*flow
	}
	var rows []row
	for _, d := range domains {
		for _, spec := range d.Channels {
			c := s.channel(d.Name, spec.Name)
			guest := deadliner(s.inGuest(d.Name, spec.Name))
			var client deadliner
			if spec.Connection == channel.PTY {
				client = s.open(c.TTY)
			} else {
				client = s.onHost(c)
			}
			out, in := s.flow(d.Name+" "+spec.Name+" from the guest"), s.flow(d.Name+" "+spec.Name+" to the guest")
			for _, end := range []deadliner{guest, client} {
				end.SetWriteDeadline(ends)
			}
			go func() { errs <- out.send(guest) }()
			go func() { errs <- in.send(client) }()
			go func() { errs <- out.receive(client, client.SetReadDeadline) }()
			go func() { errs <- in.receive(guest, guest.SetReadDeadline) }()
			flows = append(flows, out, in)
			rows = append(rows, row{c, [2]*flow{out, in}})
		}
	}
	begin := time.Now()
	killed := make(chan struct{})
	go func() { // an error ends the test at once
		defer close(killed)
		for range 2 * len(flows) {
			if err := <-errs; err != nil {
				t.Error(err)
				return
			}
		}
	}()
	s.killDaemons()
	for _, f := range flows {
		f.stop.Store(true)
	}
	<-killed
	if t.Failed() {
		return
	}
	var total [2]int64
	for _, row := range rows {
		for i, f := range row.ways {
			total[i] += f.sent.Load()
		}
		want := [4]uint64{uint64(row.ways[0].sent.Load()), uint64(row.ways[1].sent.Load()), 0, 0}
		var got [4]uint64
		s.eventually("the counts of "+row.Name, func() bool {
			r := s.row(row.Channel)
			got = [4]uint64{r.GuestToHost, r.HostToGuest, r.Spooled, r.Dropped}
			return got == want
		})
	}
	t.Logf("%d daemons killed in %v: %d bytes from guests, %d to guests, over %d channels: 0 lost, 0 twice, 0 out of order",
		s.kills, time.Since(begin).Round(time.Millisecond), total[0], total[1], len(rows))
}

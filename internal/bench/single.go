package main

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/xenchan/xenchan/ring"
)

// sizes of the messages of round trips, in bytes.
var sizes = []int{1, 64}

// lane is one way to an agent: a channel, or a relay beside it.
type lane struct {
	name     string
	from, to net.Conn // for bytes from the agent, and to it: a relay's chunk is that of the ring
	pid      int      // of who moves the bytes
	toPID    int
}

// single measures one channel and, turn by turn, a relay between two sockets.
func single(ctx context.Context, o options, r *report) error {
	host, err := newRig(ctx, o, 1)
	if err != nil {
		return err
	}
	defer host.close()
	c, err := host.dial(0)
	if err != nil {
		return err
	}
	defer c.Close()
	lanes := []lane{{"one", c, c, host.pid(), host.pid()}, {name: "relay"}}
	relay := &lanes[1]
	for _, chunk := range []int{ring.OutSize, ring.InSize} {
		c, socat, stop, err := startRelay(ctx, host.dir, chunk)
		if err != nil {
			return fmt.Errorf("the relay: %w", err)
		}
		defer stop()
		if chunk == ring.OutSize {
			relay.from, relay.pid = c, socat
		} else {
			relay.to, relay.toPID = c, socat
		}
	}
	rounds, size, trips := 7, 32<<20, 2000
	if o.quick {
		rounds, size, trips = 1, 256<<10, 50
	}
	for _, l := range lanes {
		if err := l.warm(); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	found := make(map[string]*streams)
	for range rounds {
		for _, l := range lanes {
			if found[l.name] == nil {
				found[l.name] = &streams{trips: make(map[int][]time.Duration)}
			}
			if err := found[l.name].round(l, size, trips); err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
		}
	}
	for _, l := range lanes {
		found[l.name].report(r, l.name)
	}
	return nil
}

// warm makes a lane's first bytes move, which are slower.
func (l lane) warm() error {
	_, err := trips(l.from, 64, 20, nil)
	if err == nil {
		_, err = trips(l.to, 64, 20, nil)
	}
	return err
}

// streams is what was measured on one lane, in rounds.
type streams struct {
	fromRate, toRate, fromCPU, toCPU, tripCPU []float64
	trips                                     map[int][]time.Duration // by size
}

func (s *streams) round(l lane, size, count int) error {
	stream := func(pid int, c net.Conn, chunk int, move func(net.Conn, int, int) (time.Duration, error), rate, cpu *[]float64) error {
		var took time.Duration
		w, err := during(pid, func() (err error) {
			took, err = move(c, chunk, size/chunk)
			return err
		})
		*rate = append(*rate, float64(size)/took.Seconds()/1e6)
		*cpu = append(*cpu, w.cpu.Seconds()*1e3/(float64(size)/(1<<20)))
		return err
	}
	if err := stream(l.pid, l.from, ring.OutSize, fromGuest, &s.fromRate, &s.fromCPU); err != nil {
		return err
	}
	if err := stream(l.toPID, l.to, ring.InSize, toGuest, &s.toRate, &s.toCPU); err != nil {
		return err
	}
	for _, n := range sizes {
		w, err := during(l.pid, func() error {
			took, err := trips(l.from, n, count, nil)
			s.trips[n] = append(s.trips[n], took...)
			return err
		})
		if err != nil {
			return err
		}
		s.tripCPU = append(s.tripCPU, float64(w.cpu.Microseconds())/float64(count))
	}
	return nil
}

func (s *streams) report(r *report, name string) {
	r.add(name+"/from-guest", median(s.fromRate), "MB/s")
	r.add(name+"/from-guest/cpu", median(s.fromCPU), "ms/MiB")
	r.add(name+"/to-guest", median(s.toRate), "MB/s")
	r.add(name+"/to-guest/cpu", median(s.toCPU), "ms/MiB")
	for _, n := range sizes {
		r.latencies(fmt.Sprintf("%s/round-trip-%d", name, n), s.trips[n])
	}
	r.add(name+"/round-trip/cpu", median(s.tripCPU), "µs")
}

// startRelay starts socat between two sockets, with an agent at one of them, and
// connects to the other.
func startRelay(ctx context.Context, dir string, chunk int) (c net.Conn, pid int, stop func(), err error) {
	ours, agents := filepath.Join(dir, fmt.Sprintf("relay%d", chunk)), filepath.Join(dir, fmt.Sprintf("agent%d", chunk))
	l, err := net.Listen("unix", ours)
	if err != nil {
		return nil, 0, nil, err
	}
	defer l.Close()
	program, err := exec.LookPath("socat")
	if err != nil {
		return nil, 0, nil, fmt.Errorf("the yardstick is socat: %w", err)
	}
	// It connects here once it listens for the agent: that address comes first.
	socat, _, err := start(ctx, program, fmt.Sprintf("-b%d", chunk), "UNIX-LISTEN:"+agents, "UNIX-CONNECT:"+ours)
	if err != nil {
		return nil, 0, nil, err
	}
	agent, _, err := start(ctx, "/proc/self/exe", "-role", "agent", "-dir", agents)
	if err == nil {
		c, err = l.Accept()
	}
	stop = func() {
		if c != nil {
			c.Close()
		}
		socat.end()
		agent.end()
	}
	return c, socat.cmd.Process.Pid, stop, err
}

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/sim"
)

const (
	message = 64 // bytes of a round trip
	// every is how often a channel makes a round trip that is one of the 1 % busy ones.
	every = 20 * time.Millisecond
	// streaming is how many channels stream at once where the cost of a byte is measured.
	streaming = 10
	// spare is more than the processes need beside the channels, the daemon with its
	// reserve for channels to come, and the hypervisor with all domains.
	spare = 1000
	// What the daemon needs of descriptors for a client with the pipes to it.
	clientFiles = 5
)

// base is a daemon without channels, and how many it could have.
type base struct {
	memory memory
	work   work
	most   int
	files  int // descriptors
}

// clients is how many of n channels can have one at once: the daemon has a client wait
// for whose descriptors there is no room.
func (b base) clients(n int) int { return min(n, (b.files-b.files/8-spare-n)/clientFiles) }

func measureBase(ctx context.Context, o options) (b base, err error) {
	r, err := newRig(ctx, o, 0)
	if err != nil {
		return b, err
	}
	defer r.close()
	about, err := daemon.QueryAbout(ctx, sim.RunDir(r.dir))
	if err != nil {
		return b, err
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return b, err
	}
	b.files = int(about.OpenFiles)
	b.most = min(about.MaxChannels, int(limit.Max-spare)) // the hypervisor has a page for each
	if b.work, err = workOf(r.pid()); err != nil {
		return b, err
	}
	b.memory, err = memoryOf(r.pid())
	return b, err
}

// many measures n channels at once, or as many as there are descriptors for.
func many(ctx context.Context, o options, r *report, n int) error {
	b, err := measureBase(ctx, o)
	if err != nil {
		return err
	}
	if n > b.most {
		r.note("%d channels were to be measured, and there are descriptors for %d: the limit of open files (ulimit -Hn) is in the way", n, b.most)
		n = b.most
		if n <= r.most {
			return nil
		}
	}
	host, err := newRig(ctx, o, n)
	if err != nil {
		return err
	}
	defer host.close()
	r.most = max(r.most, n)
	name := fmt.Sprintf("channels-%d/", n)
	attach, err := workOf(host.pid())
	if err != nil {
		return err
	}
	r.add(name+"attach", host.attached.Seconds(), "s")
	r.add(name+"cpu-attach", (attach.cpu-b.work.cpu).Seconds()*1e3/float64(n), "ms")
	rest, seconds := 12*time.Second, 10*time.Second // a daemon takes its own pulse every ten
	if o.quick {
		rest, seconds = 200*time.Millisecond, 200*time.Millisecond
	}
	if err := idle(r, host, name, b, n, rest); err != nil {
		return err
	}
	if err := busyFew(r, host, name, n, seconds); err != nil {
		return fmt.Errorf("1 %% busy: %w", err)
	}
	if err := stream(r, host, name, n, o.quick); err != nil {
		return fmt.Errorf("streaming: %w", err)
	}
	if err := busyAll(r, host, name, b.clients(n), n, seconds/2); err != nil {
		return fmt.Errorf("100 %% busy: %w", err)
	}
	return nil
}

// idle measures what channels take while nothing happens.
func idle(r *report, host *rig, name string, b base, n int, rest time.Duration) error {
	time.Sleep(rest / 4) // until what the start has left is done
	w, err := during(host.pid(), func() error { time.Sleep(rest); return nil })
	if err != nil {
		return err
	}
	m, err := memoryOf(host.pid())
	if err != nil {
		return err
	}
	files, err := descriptors(host.pid())
	if err != nil {
		return err
	}
	each := func(bytes int64) float64 { return float64(bytes) / 1024 / float64(n) }
	r.add(name+"memory", each(m.own-b.memory.own), "KiB each")
	r.add(name+"memory-spool", each(m.spools), "KiB each")
	r.add(name+"descriptors", float64(files)/float64(n), "each")
	r.add(name+"wakeups", float64(w.wakeups)/rest.Seconds(), "1/s")
	r.add(name+"cpu-idle", w.cpu.Seconds()/rest.Seconds()*100, "%")
	return nil
}

// clients connects to some channels, spread over all of them.
func clients(host *rig, n, of int) ([]net.Conn, func(), error) {
	var all []net.Conn
	end := func() {
		for _, c := range all {
			c.Close()
		}
	}
	for i := range n {
		c, err := host.dial(i * of / n)
		if err != nil {
			end()
			return nil, nil, err
		}
		all = append(all, c)
	}
	return all, end, nil
}

// busyFew has 1 % of the channels, one at least, make a round trip now and then.
func busyFew(r *report, host *rig, name string, n int, long time.Duration) error {
	busy := max(1, n/100)
	conns, end, err := clients(host, busy, n)
	if err != nil {
		return err
	}
	defer end()
	took := make([][]time.Duration, busy)
	var all errgroup.Group
	w, err := during(host.pid(), func() error {
		for i, c := range conns {
			all.Go(func() (err error) {
				begin := time.Now().Add(rand.N(every))
				took[i], err = trips(c, message, int(long/every), func(trip int) {
					time.Sleep(time.Until(begin.Add(time.Duration(trip) * every)))
				})
				return err
			})
		}
		return all.Wait()
	})
	if err != nil {
		return err
	}
	every := slices.Concat(took...)
	r.add(name+"busy-1%/cpu", float64(w.cpu.Microseconds())/float64(len(every)), "µs")
	r.latencies(name+"busy-1%", every)
	return nil
}

// stream measures what a byte costs the daemon.
func stream(r *report, host *rig, name string, n int, quick bool) error {
	busy, size := min(n, streaming), 8<<20
	if quick {
		size = 64 << 10
	}
	conns, end, err := clients(host, busy, n)
	if err != nil {
		return err
	}
	defer end()
	var all errgroup.Group
	begin := time.Now()
	w, err := during(host.pid(), func() error {
		for _, c := range conns {
			all.Go(func() error {
				_, err := fromGuest(c, 2048, size/2048)
				return err
			})
		}
		return all.Wait()
	})
	moved := float64(size * busy)
	r.add(name+"stream", moved/time.Since(begin).Seconds()/1e6, "MB/s")
	r.add(name+"cpu-stream", w.cpu.Seconds()*1e3/(moved/(1<<20)), "ms/MiB")
	return err
}

// busyAll has n channels make round trips, one after the other: all, if there are
// descriptors for so many clients.
func busyAll(r *report, host *rig, name string, n, of int, long time.Duration) error {
	if n < of {
		r.note("100 %% of %d channels are %d here: there are no descriptors for more clients", of, n)
	}
	conns, end, err := clients(host, n, of)
	if err != nil {
		return err
	}
	defer end()
	took := make([][]time.Duration, n)
	var all errgroup.Group
	begin := time.Now()
	for i, c := range conns {
		all.Go(func() error {
			for len(took[i]) == 0 || time.Since(begin) < long {
				more, err := trips(c, message, 5, nil)
				if err != nil {
					return err
				}
				took[i] = append(took[i], more...)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	seconds := time.Since(begin).Seconds()
	counts := make([]int, n)
	for i := range took {
		counts[i] = len(took[i])
	}
	slices.Sort(counts)
	every := slices.Concat(took...)
	r.add(name+"busy-100%/rate", float64(len(every))/seconds, "1/s")
	r.latencies(name+"busy-100%", every)
	// Of all channels, the one with the fewest round trips against the middle one.
	r.add(name+"busy-100%/fairness", float64(counts[0])/float64(counts[n/2]), "")
	return nil
}

// The program bench measures the embedded host: one busy channel beside a relay
// between two sockets, and many channels at once. `make bench` runs it. It prints
// what it has measured, each target beside its figure, and writes the same as JSON.
//
// The daemon is the program under test, bin/xenchan, in a process of its own. The
// hypervisor with its xenstore, and all guests, are two further processes, and the
// clients are in this one. Descriptors are kept by a manager in this process, as by
// systemd, so that what is measured is what loses no byte when it is killed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

type options struct {
	daemon string // the program under test
	json   string // file
	counts []int  // how many channels at once
	quick  bool   // little of everything, to see that it works
}

func main() {
	role := flag.String("role", "", "internal: what a child process is")
	dir := flag.String("dir", "", "internal: the host's directory")
	channels := flag.Int("channels", 0, "internal: how many")
	var o options
	flag.StringVar(&o.daemon, "daemon", "bin/xenchan", "the `program` under test")
	flag.StringVar(&o.json, "json", "", "`file` for the results")
	counts := flag.String("n", "1,10,100,1000,10000", "numbers of channels")
	flag.BoolVar(&o.quick, "quick", false, "a little of everything, in seconds")
	hold := flag.Int("hold", 0, "serve so many channels until interrupted, for a look from outside")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *role != "" {
		runtime.GOMAXPROCS(1) // as the daemon; and a guest here has one processor
	}
	switch *role {
	case "host":
		err = playHost(ctx, *dir, *channels)
	case "guests":
		err = playGuests(ctx, *dir, *channels)
	case "ring":
		err = playRing(ctx, *dir)
	case "agent":
		err = playAgent(ctx, *dir)
	case "":
		if *hold > 0 {
			err = holdOn(ctx, o, *hold)
			break
		}
		for field := range strings.SplitSeq(*counts, ",") {
			n, convErr := strconv.Atoi(field)
			if convErr != nil || n < 0 {
				fmt.Fprintf(os.Stderr, "bench: -n %s: %q is no number of channels\n", *counts, field)
				os.Exit(2)
			}
			if n > 0 { // 0 is none at all
				o.counts = append(o.counts, n)
			}
		}
		err = run(ctx, o)
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// holdOn has a daemon serve channels until the context ends, and says which it is.
func holdOn(ctx context.Context, o options, channels int) error {
	r, err := newRig(ctx, o, channels)
	if err != nil {
		return err
	}
	defer r.close()
	fmt.Printf("daemon %d, host %s, attached in %v\n", r.pid(), r.dir, r.attached)
	<-ctx.Done()
	return nil
}

// run measures all there is.
func run(ctx context.Context, o options) error {
	if o.quick {
		o.counts = []int{1, 10}
	}
	r := newReport()
	if err := micro(r); err != nil {
		return err
	}
	if err := single(ctx, o, r); err != nil {
		return fmt.Errorf("one channel: %w", err)
	}
	if err := bareRing(ctx, o, r); err != nil {
		return fmt.Errorf("a backend that only moves bytes: %w", err)
	}
	for _, n := range o.counts {
		fmt.Fprintf(os.Stderr, "bench: %d channels\n", n)
		if err := many(ctx, o, r, n); err != nil {
			return fmt.Errorf("%d channels: %w", n, err)
		}
	}
	r.judge()
	r.print(os.Stdout)
	if o.json == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(o.json), 0o755); err != nil {
		return err
	}
	return r.save(o.json)
}

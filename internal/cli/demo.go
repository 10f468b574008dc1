package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/toolstack"
)

//go:embed demo.cfg
var demoConfig []byte

const (
	demoBytes = 8 << 20
	demoPings = 500
)

func (a *app) demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo [CFG]",
		Short: "Show the main job end to end, without Xen",
		Long: `Demo starts an embedded host, a daemon, a guest and an echo agent in the guest,
each a process of its own, sends bytes to the agent and compares what comes back,
and plugs one more channel into the running guest. CFG is a domain configuration
with at least one channel.`,
		Example: "  xenchan demo\n  xenchan demo examples/agent.cfg",
		Args:    args(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := os.MkdirTemp(shortTempDir(), "xenchan-demo-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			cfg := filepath.Join(dir, "demo.cfg")
			if len(args) == 1 {
				cfg = args[0]
			} else if err := os.WriteFile(cfg, demoConfig, 0o644); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Minute)
			defer cancel()
			return a.demo(ctx, dir, cfg)
		},
	}
}

// shortTempDir is a directory whose sockets have room for their names.
func shortTempDir() string {
	if dir := os.TempDir(); len(dir) <= 24 {
		return dir
	}
	return "/tmp"
}

// journal keeps what the processes of the demo say, for when it fails.
type journal struct {
	mu    sync.Mutex
	lines bytes.Buffer // guarded by mu
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines.Write(p)
}

// demo tells its story line by line.
func (a *app) demo(ctx context.Context, dir, cfg string) error {
	dir = filepath.Join(dir, "host")
	domains, err := a.readDomains(dir, []string{cfg})
	if err != nil {
		return err
	}
	if len(domains[0].Channels) == 0 {
		return usagef("%s has no channel", cfg)
	}
	a.say("an embedded host in %s, with the domain %s of %s", dir, domains[0].Name, filepath.Base(cfg))
	log := &journal{}
	d := &demoRun{app: a, dir: dir, domain: domains[0].Name}
	host, err := sim.Start(ctx, sim.Config{Dir: d.dir, Domains: domains, Daemon: true, Stderr: log})
	if err != nil {
		return err
	}
	err = d.tell(ctx, host, domains[0].Channels[0].Name)
	host.Close() // and with it all who write to log
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	a.stderr.Write(log.lines.Bytes())
	return err
}

// tell is the demo on a host that runs. name is the channel to talk over.
func (d *demoRun) tell(ctx context.Context, host *sim.Host, name string) error {
	if err := host.Ready(ctx); err != nil {
		return err
	}
	d.host, d.store = "sim:"+d.dir, ""
	tools, err := d.toolstack(ctx)
	if err != nil {
		return err
	}
	defer tools.Store.Close()
	if err := d.show(ctx, tools); err != nil {
		return err
	}
	dom, err := tools.Resolve(ctx, "1")
	if err != nil {
		return err
	}
	c, err := tools.Find(ctx, dom, name)
	if err != nil {
		return err
	}
	median, err := d.exchange(ctx, c, demoBytes, demoPings)
	if err != nil {
		return err
	}
	if err := d.hotplug(ctx, tools, dom); err != nil {
		return err
	}
	_, err = fmt.Fprintf(d.stdout, "demo: ok, %d bytes each way, round trip %v (median of %d)\n", demoBytes, median.Round(time.Microsecond), demoPings)
	return err
}

func (a *app) say(format string, args ...any) { fmt.Fprintf(a.stdout, format+"\n", args...) }

// demoRun is the demo's view of its host.
type demoRun struct {
	*app
	dir, domain string
}

func (d *demoRun) show(ctx context.Context, tools *toolstack.Toolstack) error {
	d.say("\n$ xenchan list")
	rows, err := collect(ctx, tools, nil)
	if err != nil {
		return err
	}
	d.addCounters(ctx, rows, sim.RunDir(d.dir))
	if err := d.printRows(rows); err != nil {
		return err
	}
	d.say("")
	return nil
}

// exchange runs an echo agent in the guest and talks to it from the host.
func (d *demoRun) exchange(ctx context.Context, c toolstack.Channel, size, pings int) (time.Duration, error) {
	tty := filepath.Join(sim.GuestDir(d.dir, d.domain), c.Name)
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	agent := exec.CommandContext(ctx, self, "sim-echo", tty)
	agent.Stderr = d.stderr
	out, err := agent.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := agent.Start(); err != nil {
		return 0, err
	}
	defer func() { agent.Process.Kill(); agent.Wait() }()
	if _, err := io.ReadFull(out, make([]byte, len(echoReady))); err != nil {
		return 0, fmt.Errorf("the agent in the guest did not start: %w", err)
	}
	d.say("in the guest, process %d echoes what it reads from %s", agent.Process.Pid, tty)
	conn, err := dial(ctx, c, false)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	took, err := echoBytes(conn, size)
	if err != nil {
		return 0, err
	}
	d.say("on the host, %s: %d bytes sent, the same came back, in %v (%.1f MB/s each way)",
		c.Path+c.TTY, size, took.Round(time.Millisecond), float64(size)/1e6/took.Seconds())
	return echoPings(conn, pings)
}

// hotplug gives the running guest one more channel, uses it and takes it away.
func (d *demoRun) hotplug(ctx context.Context, tools *toolstack.Toolstack, dom toolstack.Domain) error {
	spec := channel.Spec{Name: "org.xenchan.demo.hotplug.0", Connection: channel.Socket}
	d.say("\n$ xenchan attach %s %s --wait", d.domain, spec)
	c, err := tools.Attach(ctx, dom, spec)
	if err != nil {
		return err
	}
	if err := await(ctx, tools, c, readyWithin); err != nil {
		return err
	}
	if err := sim.WaitFile(ctx, filepath.Join(sim.GuestDir(d.dir, d.domain), c.Name)); err != nil {
		return err
	}
	d.say("%s", c.Path)
	if _, err := d.exchange(ctx, c, 64<<10, 1); err != nil {
		return err
	}
	d.say("\n$ xenchan detach %s %s", d.domain, spec.Name)
	if err := tools.Detach(ctx, dom, spec.Name); err != nil {
		return err
	}
	return d.show(ctx, tools)
}

// echoBytes sends random bytes and compares what comes back.
func echoBytes(conn io.ReadWriter, size int) (time.Duration, error) {
	want := make([]byte, size)
	rand.Read(want)
	begin := time.Now()
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(want)
		sent <- err
	}()
	got := make([]byte, size)
	n, err := io.ReadFull(conn, got)
	took := time.Since(begin)
	if err != nil {
		return took, fmt.Errorf("only %d of %d bytes came back: %w", n, size, err)
	}
	if err := <-sent; err != nil {
		return took, err
	}
	if !bytes.Equal(got, want) {
		return took, errors.New("other bytes came back than were sent")
	}
	return took, nil
}

// echoPings is the median round trip of 64 bytes.
func echoPings(conn io.ReadWriter, count int) (time.Duration, error) {
	trips := make([]time.Duration, count)
	msg, back := make([]byte, 64), make([]byte, 64)
	for i := range trips {
		rand.Read(msg)
		begin := time.Now()
		if _, err := conn.Write(msg); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(conn, back); err != nil {
			return 0, err
		}
		trips[i] = time.Since(begin)
		if !bytes.Equal(msg, back) {
			return 0, errors.New("other bytes came back than were sent")
		}
	}
	slices.Sort(trips)
	return trips[count/2], nil
}

const echoReady = "ready\n"

// simEchoCommand is the demo's agent in the guest.
func (a *app) simEchoCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "sim-echo TTY",
		Short:  "Echo what comes from a guest's terminal",
		Hidden: true,
		Args:   args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tty, err := os.OpenFile(args[0], os.O_RDWR|syscall.O_NOCTTY, 0)
			if err != nil {
				return err
			}
			defer tty.Close()
			// Raw before anything else: a fresh hvc terminal echoes.
			if _, err := term.MakeRaw(int(tty.Fd())); err != nil {
				return err
			}
			fmt.Fprint(a.stdout, echoReady)
			_, err = io.Copy(struct{ io.Writer }{tty}, struct{ io.Reader }{tty})
			if errors.Is(err, syscall.EIO) {
				return nil // hung up
			}
			return err
		},
	}
}

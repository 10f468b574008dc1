package cli

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/internal/simguest"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xenstore"
)

// readyWithin is how long an embedded host has to come up.
const readyWithin = 30 * time.Second

func (a *app) simCommand() *cobra.Command {
	var noDaemon, verbose bool
	cmd := &cobra.Command{
		Use:   "sim DIR [CFG...]",
		Short: "Run an embedded host, without Xen",
		Long: `Sim runs an embedded Xen host in DIR until it is interrupted: a xenstore at
DIR/xenstored.sock, a daemon, and a guest for each configuration. The guest end of
each channel is a terminal, DIR/guests/DOMAIN/xen-channel/NAME, where any program
can be the agent in the guest. Sim prints "ready" when all is up. DIR/daemon.pid and
DIR/guest-DOMAIN.pid name the processes, for those who want to see one die: the
daemon is started again, a guest is not.`,
		Example: `  xenchan sim /tmp/host examples/agent.cfg
  XENSTORED_PATH=/tmp/host/xenstored.sock xenstore-ls -fp
  XENCHAN_HOST=sim:/tmp/host xenchan list
  xenchan sim /tmp/host a.cfg --no-daemon &  xenchan daemon --host sim:/tmp/host`,
		Args:              args(1, 1000),
		ValidArgsFunction: completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			domains, err := a.readDomains(dir, args[1:])
			if err != nil {
				return err
			}
			return a.runSim(cmd.Context(), sim.Config{
				Dir: dir, Domains: domains, Daemon: !noDaemon,
				Stderr: a.stderr, Log: a.simLogger(verbose),
			})
		},
	}
	cmd.Flags().BoolVar(&noDaemon, "no-daemon", false, "leave the channels to a daemon that is started separately")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log what the host and its guests do")
	return cmd
}

func (a *app) simLogger(verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
}

// readDomains reads a configuration for each domain of an embedded host in dir,
// and finds out what the host would stumble over, before there is one.
func (a *app) readDomains(dir string, files []string) ([]sim.Domain, error) {
	// The daemon's socket has the longest of the names that a host must have.
	if longest := filepath.Join(sim.RunDir(dir), "daemon.sock"); len(longest) > channel.MaxPathLen {
		return nil, usagef("the host's directory %s is too long: a unix socket's path has at most %d bytes, and %s has %d", dir, channel.MaxPathLen, longest, len(longest))
	}
	var domains []sim.Domain
	taken := make(map[string]string)
	for _, file := range files {
		c, err := a.readConfig(file)
		if err != nil {
			return nil, err
		}
		d, err := simDomain(dir, file, c)
		if err != nil {
			return nil, err
		}
		if other, ok := taken[d.Name]; ok {
			return nil, usagef("%s and %s both name their domain %s", other, file, d.Name)
		}
		taken[d.Name] = file
		domains = append(domains, d)
	}
	return domains, nil
}

// simDomain is a domain of the embedded host in dir, if it can be one.
func simDomain(dir, file string, c domainConfig) (sim.Domain, error) {
	d := sim.Domain{Name: c.orFileName(file), UUID: c.uuid}
	if err := sim.CheckName(d.Name); err != nil {
		return d, usagef("%s: %w", file, err)
	}
	for _, l := range c.channels {
		if l.Connection == channel.Socket && l.Path == "" {
			if _, err := channel.DefaultPath(sim.RunDir(dir), d.Name, l.Name); err != nil {
				return d, usagef("%s:%d:%d: %w", l.File, l.Line, l.Col, err)
			}
		}
		d.Channels = append(d.Channels, l.Spec)
	}
	return d, nil
}

func (a *app) runSim(ctx context.Context, cfg sim.Config) error {
	host, err := sim.Start(ctx, cfg)
	if err != nil {
		if ctx.Err() != nil {
			return nil // interrupted: that is how one ends it
		}
		return err
	}
	defer host.Close()
	soon, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := host.Ready(soon); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if _, err := fmt.Fprintln(a.stdout, "ready"); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// simGuestCommand is a guest of an embedded host. sim starts it.
func (a *app) simGuestCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:    "sim-guest DOMID",
		Short:  "Be a guest of an embedded host",
		Hidden: true,
		Args:   args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dom, err := xen.ParseDomID(args[0])
			if err != nil {
				return usageError{err}
			}
			w, err := a.locate()
			if err != nil {
				return err
			}
			if w.dir == "" {
				return usagef("sim-guest needs --host sim:DIR")
			}
			return a.runGuest(cmd.Context(), w.dir, dom, dir)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "where the guest's terminals are")
	return cmd
}

func (a *app) runGuest(ctx context.Context, host string, dom xen.DomID, dir string) error {
	processors(1)
	hv, err := xensim.Connect(ctx, host, dom)
	if err != nil {
		return err
	}
	defer hv.Close()
	stream, err := hv.OpenStore(ctx)
	if err != nil {
		return err
	}
	store := xenstore.New(stream)
	defer store.Close()
	return simguest.Run(ctx, simguest.Config{Store: store, Hypervisor: hv, Dir: dir})
}

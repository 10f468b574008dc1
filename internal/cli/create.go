package cli

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/convert"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/internal/xl"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

func (a *app) createCommand() *cobra.Command {
	var paused bool
	cmd := &cobra.Command{
		Use:   "create FILE [KEY=VALUE...] [-- XL-OPTION...]",
		Short: "Make a domain whose channels are there from its boot",
		Long: `Create makes a domain as xl create does, and its channels without QEMU: xl makes
the domain paused and without them, xenchan adds them in the order of the
configuration, the first as the guest's hvc1, and lets the domain run. When a step
fails, or create is interrupted, the domain is destroyed again. It prints the
domain's channels, as list does.

KEY=VALUE counts as a last line of FILE, as with xl create, and what follows -- are
options for xl create, such as -c, which opens the console, -q or -e.

When the guest reboots, xl makes its domain anew, and knows nothing of these
channels: attach them again, or declare them for the daemon to see to it. On an
embedded host the domain is a simulated one, of which FILE gives the name, the
uuid and the channels.`,
		Example: `  xenchan create /etc/xen/web.cfg
  xenchan create web.cfg --paused -o json
  xenchan create web.cfg memory=256 -- -c`,
		Args:              args(1, 1000),
		ValidArgsFunction: completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			more, err := xl.ParseArgs(args[1:])
			if err != nil {
				return usageError{err}
			}
			more.Paused = more.Paused || paused
			processors(1)
			calm()
			w, err := a.locate()
			if err != nil {
				return err
			}
			if w.dir != "" {
				return a.createSim(cmd.Context(), w.dir, args[0], more)
			}
			return a.createXL(cmd.Context(), args[0], more)
		},
	}
	cmd.Flags().BoolVar(&paused, "paused", false, "leave the domain paused, as xl create -p does")
	return cmd
}

// createSim makes a simulated domain.
func (a *app) createSim(ctx context.Context, dir, file string, more xl.Args) error {
	if more.Console {
		return usagef("-c: a domain of an embedded host has no console beside its channels")
	}
	c, err := a.readConfig(file, more.Assignments...)
	if err != nil {
		return err
	}
	d, err := simDomain(dir, file, c)
	if err != nil {
		return err
	}
	tools, err := a.toolstack(ctx)
	if err != nil {
		return err
	}
	defer tools.Store.Close()
	return a.create(ctx, tools, simMaker{sim.Client{Dir: dir}, d.Name, d.UUID}, c, more)
}

// simMaker makes a domain of an embedded host.
type simMaker struct {
	sim.Client
	name, uuid string
}

func (m simMaker) Create(ctx context.Context) (toolstack.Domain, error) {
	return m.Client.Create(ctx, m.name, m.uuid)
}

// createXL makes a domain with xl.
func (a *app) createXL(ctx context.Context, file string, more xl.Args) error {
	file, remove, err := a.regular(file)
	if err != nil {
		return usageError{err}
	}
	defer remove()
	c, err := a.readConfig(file, more.Assignments...)
	if err != nil {
		return err
	}
	if c.form != convert.XL {
		return usagef("%s is no xl.cfg, and xl makes the domain: `virsh create` takes libvirt XML, and xenchan attach adds channels", file)
	}
	tools, err := a.toolstack(ctx)
	if err != nil {
		return err
	}
	defer tools.Store.Close()
	m := xl.Maker{
		Tools: tools, File: file, Name: c.name, UUID: c.uuid, Args: more,
		Warn: func(said string) { a.warn("xl says: %s", said) },
	}
	if !more.Console {
		return a.create(ctx, tools, m, c, more)
	}
	shown := consoleMaker{Maker: m, app: a, wait: new(func() error)}
	if err := a.create(ctx, tools, shown, c, more); err != nil || more.Paused {
		return err
	}
	return (*shown.wait)()
}

// consoleMaker opens the console of a domain before it runs, so that nothing on
// it is missed.
type consoleMaker struct {
	xl.Maker
	app  *app
	wait *func() error
}

func (m consoleMaker) Unpause(ctx context.Context, id xen.DomID) (err error) {
	if *m.wait, err = xl.Console(ctx, id, m.app.stdin, m.app.stdout, m.app.stderr); err != nil {
		return err
	}
	return m.Maker.Unpause(ctx, id)
}

// regular is a file that can be read twice, by us and by xl: a copy, if the one
// given is a pipe.
func (a *app) regular(file string) (path string, remove func(), err error) {
	if info, err := os.Stat(file); file != "-" && (err != nil || info.Mode().IsRegular()) {
		return file, func() {}, err
	}
	src, err := a.readFile(file)
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "xenchan-")
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(dir, filepath.Base(file))
	return path, func() { os.RemoveAll(dir) }, os.WriteFile(path, src, 0o600)
}

// create makes the domain and shows its channels.
func (a *app) create(ctx context.Context, tools *toolstack.Toolstack, m toolstack.Maker, c domainConfig, more xl.Args) error {
	var specs []channel.Spec
	for _, l := range c.channels {
		specs = append(specs, l.Spec)
	}
	for _, w := range c.warnings {
		// What only xl minds does not matter here: it does not see the channels.
		if !w.Note && !strings.Contains(w.What, "refused by xl") {
			a.warn("warning: %s", w.String())
		}
	}
	d, err := tools.Create(ctx, m, specs, more.Paused)
	if err != nil {
		if d.ID != 0 {
			awaitDomainGone(context.WithoutCancel(ctx), tools, d.ID)
		}
		return err
	}
	if more.Console && !more.Paused {
		return nil
	}
	rows, err := createdChannels(ctx, tools, d)
	if err != nil {
		return err
	}
	if a.output != "json" {
		return a.printRows(rows)
	}
	made := createdJSON{DomID: d.ID, Domain: d.Name, UUID: d.UUID, Channels: []channel.Info{}}
	for _, r := range rows {
		made.Channels = append(made.Channels, r.Info)
	}
	return a.printJSON(made)
}

// createdChannels are the channels of a new domain, with their terminals if a
// daemon makes them soon.
func createdChannels(ctx context.Context, tools *toolstack.Toolstack, d toolstack.Domain) ([]toolstack.Channel, error) {
	rows, err := tools.Channels(ctx, d)
	noTTY := func(c toolstack.Channel) bool { return c.Connection == channel.PTY && c.TTY == "" }
	if err != nil || !slices.ContainsFunc(rows, noTTY) {
		return rows, err
	}
	if !daemon.Listens(ctx, tools.RunDir) {
		return rows, nil
	}
	soon, cancel := context.WithTimeout(ctx, terminalSoon)
	defer cancel()
	err = tools.Store.WaitUntil(soon, func(r xenstore.Reader) (bool, error) {
		v := xenstore.NewValues(soon, r)
		there := true
		for _, c := range rows {
			if noTTY(c) && c.BackendDomID == 0 {
				there = v.Get(c.Frontend+"/tty") != "" && there
			}
		}
		return there, v.Err()
	})
	if err != nil && soon.Err() == nil {
		return nil, err
	}
	return tools.Channels(ctx, d)
}

// createdJSON is a new domain; its channels are as list has them.
type createdJSON struct {
	DomID    xen.DomID      `json:"domid"`
	Domain   string         `json:"domain"`
	UUID     string         `json:"uuid"`
	Channels []channel.Info `json:"channels"`
}

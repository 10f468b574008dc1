package cli

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore"
)

const specHelp = `SPEC is the string of xl.cfg's channel list: KEY=VALUE pairs with commas between.

  name        how both ends find the channel, as org.example.agent.0 (required)
  connection  what the host end is: socket or pty (required)
  path        the socket's path (default: /run/xenchan/DOMAIN/NAME.sock)
  backend     the domain that serves it (default: this host's control domain)
  mode        permission bits of the socket (default 0600, with allow 0666)
  owner       owner of the socket, a name or a number
  group       group of the socket, a name or a number
  allow       who alone may connect to the socket: users and @groups with ':'
              between, as alice:1000:@adm; root too only when named
  spool       how much is kept for a client that is not there (default 4MiB)
  overflow    what a full spool does: drop-oldest, or block, which makes a guest
              that goes on writing stand still (default drop-oldest)`

func (a *app) attachCommand() *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "attach DOMAIN SPEC",
		Short: "Give a running domain one more channel",
		Long: `Attach gives a domain one more channel and prints where its host end is, the
path of a socket or of a terminal. The guest finds it by its name. DOMAIN is a
name, a domid or a uuid. With --wait both ends can be used when attach returns;
when they cannot in time, the exit status is 4 and the channel stays attached.

` + specHelp,
		Example: `  xenchan attach web connection=socket,name=org.example.agent.0
  xenchan attach 5 connection=pty,name=org.example.console.0 --wait
  xenchan attach web connection=socket,name=a.0,path=/run/a.sock,mode=0660,group=adm`,
		Args:              args(2, 2),
		ValidArgsFunction: a.completeDomain,
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := channel.ParseSpec(args[1])
			if err != nil {
				return err
			}
			if timeout <= 0 {
				return usagef("--timeout %v: give a time above 0", timeout)
			}
			for _, w := range spec.Warnings() {
				if w.Key != "path" || spec.Path != "" { // what only xl minds does not matter here
					a.warn("warning: %s", w.Error())
				}
			}
			tools, err := a.toolstack(cmd.Context())
			if err != nil {
				return err
			}
			defer tools.Store.Close()
			want := attachment{domain: args[0], spec: spec}
			if wait {
				want.wait = timeout
			}
			return a.attach(cmd.Context(), tools, want)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the guest is connected and clients can be")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "`TIME` that --wait waits at most, as 10s or 2m")
	return cmd
}

// attachment is what attach was asked for.
type attachment struct {
	domain string
	spec   channel.Spec
	wait   time.Duration // how long to wait for the guest; 0 is not at all
}

func (a *app) attach(ctx context.Context, tools *toolstack.Toolstack, want attachment) error {
	d, err := tools.Resolve(ctx, want.domain)
	if err != nil {
		return err
	}
	c, err := tools.Attach(ctx, d, want.spec)
	if err != nil {
		return err
	}
	if err := tools.Announce(ctx, c); err != nil {
		return err
	}
	if want.wait > 0 {
		err = await(ctx, tools, c, want.wait)
	} else if c.Connection == channel.PTY {
		a.awaitSoon(ctx, tools, c)
	}
	if err != nil {
		return err
	}
	if c, err = tools.Find(ctx, d, c.Name); err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(c.Info)
	}
	if c.Path+c.TTY != "" {
		fmt.Fprintln(a.stdout, printable(c.Path+c.TTY))
	}
	return nil
}

// terminalSoon is how long a daemon usually needs at most for a terminal.
const terminalSoon = time.Second

// awaitSoon waits for the terminal of a new channel, as there is no path to
// print before. It is no error when no daemon makes one.
func (a *app) awaitSoon(ctx context.Context, tools *toolstack.Toolstack, c toolstack.Channel) {
	ctx, cancel := context.WithTimeout(ctx, terminalSoon)
	defer cancel()
	if awaitPlace(ctx, tools, c) != nil {
		a.warn("%s is attached; its terminal is not there yet, because no daemon has answered (`xenchan list` shows it later)", c.Name)
	}
}

// await waits until a channel works from end to end: the guest is connected, and
// clients on the host can be.
func await(ctx context.Context, tools *toolstack.Toolstack, c toolstack.Channel, limit time.Duration) error {
	soon, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := tools.WaitConnected(soon, c)
	if timedOut(ctx, soon, err) {
		return timeoutError{fmt.Errorf("%s is attached, but the guest did not connect to it within %v (is a daemon running? `xenchan list` shows the states)", c.Name, limit)}
	}
	if err != nil || !served(ctx, tools, c) {
		return err
	}
	err = awaitPlace(soon, tools, c)
	if timedOut(ctx, soon, err) {
		return timeoutError{fmt.Errorf("%s is attached and the guest is connected, but there is nothing for clients to connect to after %v: see what the daemon logs", c.Name, limit)}
	}
	return err
}

// timedOut tells a wait that was too long from one that was interrupted.
func timedOut(ctx, soon context.Context, err error) bool {
	return err != nil && ctx.Err() == nil && soon.Err() != nil
}

// awaitPlace waits until there is something for clients to open: a terminal that the
// daemon has published, or a socket. It learns from the daemon why there is none.
func awaitPlace(ctx context.Context, tools *toolstack.Toolstack, c toolstack.Channel) error {
	there := socketThere
	if c.Connection == channel.PTY {
		there = ttyThere
	}
	for {
		if ok, err := there(ctx, tools, c); ok || err != nil {
			return err
		}
		all, _ := daemon.Query(ctx, tools.RunDir)
		for _, s := range all {
			if s.DomID == c.DomID && s.DevID == c.DevID && s.Problem != "" {
				return fmt.Errorf("%s is attached, but clients cannot connect to it: %s", c.Name, s.Problem)
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func ttyThere(ctx context.Context, tools *toolstack.Toolstack, c toolstack.Channel) (bool, error) {
	v := xenstore.NewValues(ctx, tools.Store)
	tty, ok := v.Lookup(c.Frontend + "/tty")
	if !ok && v.Err() == nil {
		return false, fmt.Errorf("%w: %s was detached", toolstack.ErrNoChannel, c.Name)
	}
	return tty != "", v.Err()
}

func socketThere(_ context.Context, _ *toolstack.Toolstack, c toolstack.Channel) (bool, error) {
	info, err := os.Stat(c.Path)
	return err == nil && info.Mode().Type() == fs.ModeSocket, nil
}

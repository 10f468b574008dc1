package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore"
)

const specHelp = `SPEC is the string of xl.cfg's channel list: KEY=VALUE pairs with commas between.

  name        how both ends find the channel, as org.example.agent.0 (required)
  connection  what the host end is: socket or pty (required)
  path        the socket's path (default: /run/xenchan/DOMAIN/NAME.sock)
  backend     the domain that serves it (default: this host's control domain)
  mode        permission bits of the socket (default 0600)
  owner       owner of the socket, a name or a number
  group       group of the socket, a name or a number
  spool       how much is kept for a client that is not there (default 1MiB)
  overflow    what a full spool does: drop-oldest, or block, which makes a guest
              that goes on writing stand still (default drop-oldest)`

func (a *app) attachCommand() *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "attach DOMAIN SPEC",
		Short: "Give a running domain one more channel",
		Long: `Attach gives a domain one more channel and prints where its host end is. The
guest finds it by its name. DOMAIN is a name, a domid or a uuid.

` + specHelp,
		Example: `  xenchan attach web connection=socket,name=org.example.agent.0
  xenchan attach 5 connection=pty,name=org.example.console.0 --wait
  xenchan attach web connection=socket,name=a.0,path=/run/a.sock,mode=0660,group=adm`,
		Args:              args(2, 2),
		ValidArgsFunction: a.completeDomain,
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := channel.ParseSpec(args[1])
			if err != nil {
				return usageError{err}
			}
			if err := spec.Validate(); err != nil {
				return usageError{err}
			}
			tools, err := a.toolstack(cmd.Context())
			if err != nil {
				return err
			}
			defer tools.Store.Close()
			return a.attach(cmd.Context(), tools, args[0], spec, wait, timeout)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the guest is connected")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long --wait waits")
	return cmd
}

func (a *app) attach(ctx context.Context, tools *toolstack.Toolstack, domain string, spec channel.Spec, wait bool, timeout time.Duration) error {
	d, err := tools.Resolve(ctx, domain)
	if err != nil {
		return err
	}
	c, err := tools.Attach(ctx, d, spec)
	if err != nil {
		return err
	}
	if wait {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		if err := tools.WaitConnected(ctx, c); err != nil {
			return fmt.Errorf("%s is attached, but the guest did not connect to it within %v (is a daemon running? `xenchan list` shows the states): %w", spec.Name, timeout, err)
		}
	}
	where, err := a.place(ctx, tools, c, wait)
	if err != nil {
		return err
	}
	if a.output == "json" {
		if c, err = tools.Find(ctx, d, spec.Name); err != nil {
			return err
		}
		return a.printJSON(c.Info)
	}
	if where != "" {
		fmt.Fprintln(a.stdout, where)
	}
	return nil
}

// place is the socket's or the terminal's path; the latter is known when the
// daemon has made it.
func (a *app) place(ctx context.Context, tools *toolstack.Toolstack, c toolstack.Channel, wait bool) (string, error) {
	if c.Connection == channel.Socket {
		return c.Path, nil
	}
	limit := time.Second
	if wait {
		limit = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var tty string
	err := tools.Store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
		v := xenstore.NewValues(ctx, r)
		tty = v.Get(c.Frontend + "/tty")
		return tty != "", v.Err()
	})
	if err != nil && !wait {
		a.warn("%s is attached; its terminal is not there yet, because no daemon has answered (`xenchan list` shows it later)", c.Name)
		return "", nil
	}
	return tty, err
}

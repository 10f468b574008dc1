package cli

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/toolstack"
)

func (a *app) detachCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "detach DOMAIN NAME",
		Short: "Take a channel away from a running domain",
		Long: `Detach takes a channel away from a running domain. Programs in the guest that
hold its terminal read end-of-file, clients on the host are disconnected. A guest
that does not answer is not waited for beyond the time-out: the channel goes anyway.`,
		Example: `  xenchan detach web org.example.agent.0
  xenchan detach 5 org.example.console.0`,
		Args:              args(2, 2),
		ValidArgsFunction: a.completeChannel,
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout <= 0 {
				return usagef("--timeout %v: give a time above 0", timeout)
			}
			tools, err := a.toolstack(cmd.Context())
			if err != nil {
				return err
			}
			defer tools.Store.Close()
			d, err := tools.Resolve(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			c, err := tools.Find(cmd.Context(), d, args[1])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if err := tools.Detach(ctx, d, c.Name); err != nil {
				return err
			}
			if c.Origin == channel.OriginDeclared {
				a.warn("%s is declared in %s: a daemon attaches it again; take it out of that file and run `xenchan apply`", c.Name, c.DeclaredIn)
				return nil
			}
			awaitGone(cmd.Context(), tools, func(s daemon.Status) bool { return s.DomID == c.DomID && s.DevID == c.DevID })
			return nil
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "`TIME` that the guest has to close its end")
	return cmd
}

// letGo is how long a daemon may need to close the host end of a channel whose
// nodes are gone; it gives a connected client two seconds to read the rest.
const letGo = 3 * time.Second

// awaitGone waits until the daemon, if one runs, has closed the host ends of
// these channels too, so that their paths are free afterwards.
func awaitGone(ctx context.Context, tools *toolstack.Toolstack, these func(daemon.Status) bool) {
	ctx, cancel := context.WithTimeout(ctx, letGo)
	defer cancel()
	for {
		serving, err := daemon.Query(ctx, tools.RunDir)
		if err != nil || !slices.ContainsFunc(serving, these) {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

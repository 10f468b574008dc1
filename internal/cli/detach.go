package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
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
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return tools.Detach(ctx, d, args[1])
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "`TIME` that the guest has to close its end")
	return cmd
}

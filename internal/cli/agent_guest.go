package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/agent/qga"
)

func (g *guestAgent) osCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "os",
		Short:   "the guest's operating system",
		Long:    "Os prints what the guest says about its operating system.",
		Example: "  xenchan agent web os\n  xenchan agent web os -o json | jq -r .id",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.with(cmd.Context(), func(c *qga.Client) error {
				o, err := c.OS(cmd.Context())
				if err != nil {
					return err
				}
				return g.show(o, func() {
					w := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', 0)
					defer w.Flush()
					for _, row := range [][2]string{
						{"system", o.PrettyName},
						{"id", o.ID},
						{"version", o.VersionID},
						{"kernel", o.KernelRelease},
						{"machine", o.Machine},
					} {
						fmt.Fprintf(w, "%s\t%s\n", row[0], cell(row[1]))
					}
				})
			})
		},
	}
}

func (g *guestAgent) netCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "net",
		Short:   "the guest's network interfaces and addresses",
		Long:    "Net prints the guest's network interfaces and their addresses.",
		Example: "  xenchan agent web net\n  xenchan agent web net -o json | jq -r '.[].\"ip-addresses\"[]?.\"ip-address\"'",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.with(cmd.Context(), func(c *qga.Client) error {
				all, err := c.Interfaces(cmd.Context())
				if err != nil {
					return err
				}
				if all == nil {
					all = []qga.Interface{}
				}
				return g.show(all, func() {
					w := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', 0)
					defer w.Flush()
					fmt.Fprintln(w, "NAME\tMAC\tADDRESSES")
					for _, i := range all {
						var addresses []string
						for _, a := range i.Addresses {
							addresses = append(addresses, fmt.Sprintf("%s/%d", a.IP, a.Prefix))
						}
						fmt.Fprintf(w, "%s\t%s\t%s\n", cell(i.Name), cell(i.HardwareAddr), cell(strings.Join(addresses, " ")))
					}
				})
			})
		},
	}
}

func (g *guestAgent) timeCommand() *cobra.Command {
	var set bool
	cmd := &cobra.Command{
		Use:     "time",
		Short:   "the guest's clock; with --set, set it to this host's",
		Long:    "Time prints the guest's clock and how far it is from this host's.",
		Example: "  xenchan agent web time\n  xenchan agent web time --set     after a restore, say",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return g.with(ctx, func(c *qga.Client) error {
				if set {
					if err := c.Sync(ctx); err != nil { // so that the time is not old when it arrives
						return err
					}
					if err := c.SetTime(ctx, time.Now()); err != nil {
						return err
					}
				}
				t, err := c.Time(ctx)
				if err != nil {
					return err
				}
				ahead := time.Until(t)
				return g.show(struct {
					Time  string  `json:"time"`
					Ahead float64 `json:"ahead_seconds"`
				}{t.UTC().Format(time.RFC3339Nano), ahead.Seconds()}, func() {
					fmt.Fprintf(g.stdout, "%s (%v from this host's)\n", t.Format(time.RFC3339), ahead.Round(time.Millisecond))
				})
			})
		},
	}
	cmd.Flags().BoolVar(&set, "set", false, "set it to this host's first")
	return cmd
}

func (g *guestAgent) freezeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "freeze",
		Short: "freeze its file systems, as for a copy of its disks",
		Long: `Freeze writes out and freezes the guest's file systems, so that a copy of its
disks is consistent, and prints how many. Programs in the guest that write stand
still until thaw. It waits longer than other commands: --timeout counts from when
the agent has it.`,
		Example: "  xenchan agent web freeze && lvcreate -s -n snap vg/web; xenchan agent web thaw",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.countFileSystems(cmd.Context(), "frozen", (*qga.Client).Freeze)
		},
	}
}

func (g *guestAgent) thawCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "thaw",
		Short:   "end a freeze",
		Long:    "Thaw ends a freeze and prints how many file systems were frozen.",
		Example: "  xenchan agent web thaw",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.countFileSystems(cmd.Context(), "thawed", (*qga.Client).Thaw)
		},
	}
}

func (g *guestAgent) countFileSystems(ctx context.Context, done string, do func(*qga.Client, context.Context) (int, error)) error {
	return g.with(ctx, func(c *qga.Client) error {
		n, err := do(c, ctx)
		if err != nil {
			return err
		}
		return g.show(map[string]int{done: n}, func() { fmt.Fprintf(g.stdout, "%s: %d file systems\n", done, n) })
	})
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/xenchan/xenchan/agent/qga"
)

// agentChannel is the name under which everybody knows the agent of QEMU.
const agentChannel = "org.qemu.guest_agent.0"

const agentExit = `What the guest does not answer in time ends
with exit status 4, and leaves the channel in order for the next command.`

const agentExample = `  xenchan agent web ping
  xenchan agent web exec -- systemctl restart nginx
  xenchan agent web cp ./site.conf :/etc/nginx/conf.d/
  xenchan agent web shutdown`

// guestAgent is what the commands to an agent share.
type guestAgent struct {
	*app
	domain  string
	channel string
	timeout time.Duration
}

func (g *guestAgent) flags(f *pflag.FlagSet) {
	f.StringVar(&g.channel, "channel", g.channel, "`NAME` of the agent's channel")
	f.DurationVar(&g.timeout, "timeout", g.timeout, "`TIME` that the agent has for one answer")
}

// agentCommand has its domain in front of its subcommands, which cobra does not
// know. So its own flags end with the domain, and what follows is parsed by
// another command tree.
func (a *app) agentCommand() *cobra.Command {
	g := &guestAgent{app: a, channel: agentChannel, timeout: qga.DefaultTimeout}
	cmd := &cobra.Command{
		Use:   "agent DOMAIN COMMAND [ARG...]",
		Short: "Ask a guest's agent to do something",
		Long: `Agent speaks with the QEMU guest agent (qemu-ga) of a domain, over the channel
that it has there. In the guest it is started as

  qemu-ga -m isa-serial -p /dev/xen-channel/` + agentChannel + `

COMMAND is one of

` + g.verbList() + `
` + "`xenchan agent DOMAIN COMMAND --help` says more. " + agentExit,
		Example: agentExample,
		Args:    args(1, 1<<10),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return commandNames(g.tree()), cobra.ShellCompDirectiveNoFileComp
			}
			if len(args) > 1 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.completeDomain(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			g.domain = args[0]
			tree := g.tree()
			tree.SetArgs(args[1:])
			tree.SetIn(a.stdin)
			tree.SetOut(a.stdout)
			tree.SetErr(a.stderr)
			return tree.ExecuteContext(cmd.Context())
		},
	}
	cmd.Flags().SetInterspersed(false)
	g.flags(cmd.Flags())
	return cmd
}

// tree is the command line behind the domain.
func (g *guestAgent) tree() *cobra.Command {
	root := &cobra.Command{
		Use:           "agent",
		Long:          "These commands ask the guest agent of a domain. `xenchan agent --help` says how it is\nstarted in the guest.\n\n" + agentExit,
		Example:       agentExample,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "xenchan agent DOMAIN"},
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("agent %s: which command? They are %s", g.domain, strings.Join(commandNames(cmd), ", "))
			}
			return usagef("unknown agent command %q%s; they are %s", args[0], didYouMean(args[0], commandNames(cmd)), strings.Join(commandNames(cmd), ", "))
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return g.checkFlags() },
	}
	g.globalFlags(root.PersistentFlags())
	g.flags(root.PersistentFlags())
	g.adopt(root)
	root.SetHelpCommand(&cobra.Command{Hidden: true}) // --help is enough
	root.AddCommand(g.pingCommand(), g.infoCommand(), g.execCommand(), g.copyCommand(),
		g.shutdownCommand(), g.rebootCommand(), g.osCommand(), g.netCommand(), g.timeCommand(),
		g.freezeCommand(), g.thawCommand(), g.passwordCommand(), g.rawCommand(),
		g.clipboardCommand(), g.resolutionCommand())
	return root
}

func (g *guestAgent) verbList() string {
	var b strings.Builder
	for _, c := range g.tree().Commands() {
		fmt.Fprintf(&b, "  %-13s %s\n", c.Name(), c.Short)
	}
	return b.String()
}

// with runs f with a client of the agent, and says what a silent agent may mean.
func (g *guestAgent) with(ctx context.Context, f func(*qga.Client) error) error {
	if g.timeout <= 0 {
		return usagef("--timeout %v: give a time above 0", g.timeout)
	}
	conn, err := g.openChannel(ctx, g.domain, g.channel, false)
	if err != nil {
		return err
	}
	c := qga.New(conn)
	c.Timeout = g.timeout
	defer c.Close()
	err = f(c)
	if errors.Is(err, qga.ErrNoAnswer) {
		err = timeoutError{fmt.Errorf("%w within %v: see that it runs in the guest and has the channel %s open (`xenchan doctor %s %s`)",
			err, g.timeout, g.channel, g.domain, g.channel)}
	}
	if errors.Is(err, qga.ErrGone) {
		err = fmt.Errorf("%w: its domain was ended or restarted, or the channel detached; what was asked last may be done or not (`xenchan list`)", err)
	}
	return err
}

// show prints v as JSON, or what table prints.
func (g *guestAgent) show(v any, table func()) error {
	if g.output == "json" {
		return g.printJSON(v)
	}
	table()
	return nil
}

func (g *guestAgent) pingCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ping",
		Short:   "see whether it answers",
		Long:    "Ping sees whether the agent answers, and says how long that took.",
		Example: "  xenchan agent web ping\n  until xenchan agent web ping --timeout 2s; do sleep 1; done",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.with(cmd.Context(), func(c *qga.Client) error {
				if err := c.Sync(cmd.Context()); err != nil {
					return err
				}
				start := time.Now()
				if err := c.Ping(cmd.Context()); err != nil {
					return err
				}
				took := time.Since(start)
				return g.show(struct {
					Microseconds int64 `json:"round_trip_us"`
				}{took.Microseconds()}, func() { fmt.Fprintf(g.stdout, "answered in %v\n", took.Round(time.Microsecond)) })
			})
		},
	}
}

func (g *guestAgent) infoCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "info",
		Short:   "its version, and the commands it knows",
		Long:    "Info prints the agent's version and the commands that it knows. Those in brackets are\ndisabled in the guest.",
		Example: "  xenchan agent web info\n  xenchan agent web info -o json | jq -r '.supported_commands[] | select(.enabled) | .name'",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.with(cmd.Context(), func(c *qga.Client) error {
				info, err := c.Info(cmd.Context())
				if err != nil {
					return err
				}
				return g.show(info, func() {
					fmt.Fprintf(g.stdout, "version %s\n", printable(info.Version))
					for _, known := range info.Commands {
						name := printable(known.Name)
						if !known.Enabled {
							name = "[" + name + "]"
						}
						fmt.Fprintln(g.stdout, name)
					}
				})
			})
		},
	}
}

func (g *guestAgent) rawCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "raw JSON",
		Short: "send one command as it is",
		Long: `Raw sends one command of the agent's protocol and prints the line that answers
it, also when that is an error, which makes the exit status 1.`,
		Example: `  xenchan agent web raw '{"execute":"guest-get-users"}'`,
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.with(cmd.Context(), func(c *qga.Client) error {
				line, refused, err := c.Raw(cmd.Context(), []byte(args[0]))
				if errors.Is(err, qga.ErrNotCommand) {
					return usageError{err}
				}
				if err != nil {
					return err
				}
				fmt.Fprintln(g.stdout, printable(strings.TrimSpace(string(line))))
				if refused {
					return errSilent
				}
				return nil
			})
		},
	}
}

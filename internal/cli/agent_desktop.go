package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/xenchan/xenchan/agent/vdagent"
)

// spiceChannel is the name under which everybody knows the agent of SPICE.
const spiceChannel = "com.redhat.spice.0"

// maxPixels bounds a side of a monitor.
const maxPixels = 16384

// withDesktop runs f with a client of the SPICE agent.
func (g *guestAgent) withDesktop(ctx context.Context, f func(*vdagent.Client) error) error {
	if g.timeout <= 0 {
		return usagef("--timeout %v: give a time above 0", g.timeout)
	}
	if g.channel == agentChannel {
		g.channel = spiceChannel
	}
	conn, err := g.openChannel(ctx, g.domain, g.channel, false)
	if err != nil {
		return err
	}
	c := vdagent.New(conn)
	c.Timeout = g.timeout
	defer c.Close()
	err = f(c)
	switch {
	case errors.Is(err, vdagent.ErrNoAnswer):
		err = timeoutError{fmt.Errorf("%w within %v: see that spice-vdagentd runs in the guest with the channel %s, and spice-vdagent in its session (`xenchan doctor %s %s`)",
			err, g.timeout, g.channel, g.domain, g.channel)}
	case errors.Is(err, vdagent.ErrNotText):
		err = usageError{err}
	}
	return err
}

func (g *guestAgent) clipboardCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clipboard",
		Short: "read the guest's clipboard, or put text there",
		Long: `Clipboard reads the text in the clipboard of a guest's desktop, or puts text there.
It speaks with the agent of SPICE, over the channel ` + spiceChannel + `.`,
		Example: "  xenchan agent web clipboard get\n  xenchan agent web clipboard set <notes.txt",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("agent %s clipboard: get or set?", g.domain)
		},
	}
	cmd.AddCommand(g.clipboardGetCommand(), g.clipboardSetCommand())
	return cmd
}

func (g *guestAgent) clipboardGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get",
		Short: "print the text in the guest's clipboard",
		Long: `Get prints the text in the clipboard of the guest's desktop, as it is; on a terminal
with what is not printable escaped.`,
		Example: "  xenchan agent web clipboard get >text",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withDesktop(cmd.Context(), func(c *vdagent.Client) error {
				text, err := c.Clipboard(cmd.Context())
				if err != nil {
					return err
				}
				if g.output == "json" {
					return g.printJSON(struct {
						Text string `json:"text"`
					}{string(text)})
				}
				if f, ok := g.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
					text = []byte(printableText(string(text)))
				}
				_, err = g.stdout.Write(text)
				return err
			})
		},
	}
}

func (g *guestAgent) clipboardSetCommand() *cobra.Command {
	var once bool
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "set",
		Short: "put text into the guest's clipboard",
		Long: `Set puts standard input, which is UTF-8 and at most 16 MiB, into the clipboard of the
guest's desktop. It stays there as long as the command runs: the guest asks for it each
time that somebody pastes it. The command ends when something else gets into the
guest's clipboard, with --once when it was pasted, and with --for after a time.`,
		Example: "  xenchan agent web clipboard set --once <password\n  xenchan agent web clipboard set --for 1m <notes.txt",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := io.ReadAll(io.LimitReader(g.stdin, vdagent.MaxClipboard+1))
			if err != nil {
				return err
			}
			if len(text) > vdagent.MaxClipboard {
				return usagef("standard input has more than %d MiB, which do not go through a clipboard", vdagent.MaxClipboard>>20)
			}
			if within < 0 {
				return usagef("--for %v: give a time above 0", within)
			}
			return g.withDesktop(cmd.Context(), func(c *vdagent.Client) error {
				ctx, stop := cmd.Context(), context.CancelFunc(func() {})
				offered := func() {}
				if within > 0 {
					ctx, stop = context.WithCancel(ctx)
					offered = func() { time.AfterFunc(within, stop) }
				}
				defer stop()
				err := c.Offer(ctx, text, offered, func() bool { return !once })
				if errors.Is(err, vdagent.ErrTaken) && !once || ctx.Err() != nil && cmd.Context().Err() == nil {
					return nil
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "end when it was pasted once")
	cmd.Flags().DurationVar(&within, "for", 0, "end after this `TIME`")
	return cmd
}

func (g *guestAgent) resolutionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "resolution WIDTHxHEIGHT...",
		Short: "say which monitors the guest's desktop is to have",
		Long: `Resolution tells the agent of SPICE in the guest, over the channel ` + spiceChannel + `,
which monitors its desktop is to have, from left to right. It ends when the agent has
heard it; what the desktop makes of it depends on the guest's display.`,
		Example: "  xenchan agent web resolution 1920x1080\n  xenchan agent web resolution 1920x1080 1280x1024",
		Args:    args(1, vdagent.MaxMonitors),
		RunE: func(cmd *cobra.Command, args []string) error {
			monitors, err := parseMonitors(args)
			if err != nil {
				return err
			}
			return g.withDesktop(cmd.Context(), func(c *vdagent.Client) error {
				return c.SetMonitors(cmd.Context(), monitors)
			})
		},
	}
}

var resolutionPattern = regexp.MustCompile(`^([0-9]{1,5})x([0-9]{1,5})$`)

// parseMonitors puts monitors beside each other.
func parseMonitors(args []string) (all []vdagent.Monitor, err error) {
	x := 0
	for _, a := range args {
		m := resolutionPattern.FindStringSubmatch(a)
		if m == nil {
			return nil, usagef("%q is no resolution; give one as 1920x1080", a)
		}
		width, _ := strconv.Atoi(m[1])
		height, _ := strconv.Atoi(m[2])
		if width < 1 || height < 1 || width > maxPixels || height > maxPixels {
			return nil, usagef("%q: a side has 1 to %d pixels", a, maxPixels)
		}
		all = append(all, vdagent.Monitor{Width: width, Height: height, X: x})
		x += width
	}
	return all, nil
}

// printableText is printable, but keeps its lines.
func printableText(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = printable(l)
	}
	return strings.Join(lines, "\n")
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

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

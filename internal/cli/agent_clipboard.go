package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/xenchan/xenchan/agent/rfbclip"
	"github.com/xenchan/xenchan/agent/vdagent"
)

// staleSilence is how long a guest is silent that has said all of what it said to nobody.
const staleSilence = 200 * time.Millisecond

// greetAgain is how soon a guest is greeted again that has not answered.
const greetAgain = time.Second

func (g *guestAgent) clipboardCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clipboard",
		Short: "read the guest's clipboard, or put text there",
		Long: `Clipboard reads the text in the clipboard of a guest's desktop, or puts text there.
It speaks with the agent of SPICE, over the channel ` + spiceChannel + `; or
Xen's own protocol, where a domain has the channel for that alone,
` + rfbclip.Channel + `, or --channel says so.`,
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
			ctx := cmd.Context()
			if g.xensClipboard(ctx) {
				return g.withClipboard(ctx, func(s *rfbclip.Server) error {
					text, err := s.Next()
					if err != nil {
						return err
					}
					return g.printClipboard([]byte(text))
				})
			}
			return g.withDesktop(ctx, func(c *vdagent.Client) error {
				text, err := c.Clipboard(ctx)
				if err != nil {
					return err
				}
				return g.printClipboard(text)
			})
		},
	}
}

func (g *guestAgent) printClipboard(text []byte) error {
	if g.output == "json" {
		return g.printJSON(struct {
			Text string `json:"text"`
		}{string(text)})
	}
	if f, ok := g.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		text = []byte(printableText(string(text)))
	}
	_, err := g.stdout.Write(text)
	return err
}

func (g *guestAgent) clipboardSetCommand() *cobra.Command {
	var once bool
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "set",
		Short: "put text into the guest's clipboard",
		Long: `Set puts standard input, which is UTF-8 and at most 16 MiB, into the clipboard of the
guest's desktop. With SPICE's agent it stays there as long as the command runs: the guest
asks for it each time that somebody pastes it. The command ends when something else gets
into the guest's clipboard, with --once when it was pasted, and with --for after a time.
By Xen's protocol the guest gets the text at once, and the command ends.`,
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
			if !g.xensClipboard(cmd.Context()) {
				return g.offerClipboard(cmd.Context(), text, once, within)
			}
			if once || within > 0 {
				return usagef("Xen's clipboard protocol does not know when text is pasted, nor takes it back: leave --once and --for out")
			}
			return g.withClipboard(cmd.Context(), func(s *rfbclip.Server) error { return s.Send(string(text)) })
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "end when it was pasted once")
	cmd.Flags().DurationVar(&within, "for", 0, "end after this `TIME`")
	return cmd
}

// offerClipboard is set with SPICE's agent.
func (g *guestAgent) offerClipboard(ctx context.Context, text []byte, once bool, within time.Duration) error {
	return g.withDesktop(ctx, func(c *vdagent.Client) error {
		soon, stop := ctx, context.CancelFunc(func() {})
		offered := func() {}
		if within > 0 {
			soon, stop = context.WithCancel(ctx)
			offered = func() { time.AfterFunc(within, stop) }
		}
		defer stop()
		err := c.Offer(soon, text, offered, func() bool { return !once })
		if errors.Is(err, vdagent.ErrTaken) && !once || soon.Err() != nil && ctx.Err() == nil {
			return nil
		}
		return err
	})
}

// xensClipboard reports whether the clipboard is reached by Xen's protocol: the channel is
// that, or the domain has that one and none of SPICE's.
func (g *guestAgent) xensClipboard(ctx context.Context) bool {
	if g.channel != agentChannel {
		return g.channel == rfbclip.Channel
	}
	tools, err := g.toolstack(ctx)
	if err != nil {
		return false // who needs it will say so
	}
	defer tools.Store.Close()
	d, err := tools.Resolve(ctx, g.domain)
	if err != nil {
		return false
	}
	_, err = tools.Find(ctx, d, spiceChannel)
	_, xens := tools.Find(ctx, d, rfbclip.Channel)
	return err != nil && xens == nil
}

// withClipboard runs f with a guest that has answered by Xen's protocol. It has --timeout
// for that, and again for f.
func (g *guestAgent) withClipboard(ctx context.Context, f func(*rfbclip.Server) error) error {
	if g.timeout <= 0 {
		return usagef("--timeout %v: give a time above 0", g.timeout)
	}
	conn, err := g.openChannel(ctx, g.domain, rfbclip.Channel, false)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	s := rfbclip.NewServer(conn)
	if err = g.greet(conn, s); err == nil {
		err = conn.SetDeadline(time.Now().Add(g.timeout))
	}
	if err == nil {
		err = f(s)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return timeoutError{fmt.Errorf("the guest says nothing of its clipboard within %v: see that `xenchan-guest clipboard` runs in its session (`xenchan doctor %s %s`)",
			g.timeout, g.domain, rfbclip.Channel)}
	case errors.Is(err, rfbclip.ErrNotLatin):
		return usageError{fmt.Errorf("%w: SPICE's agent, on the channel %s, has them all", err, spiceChannel)}
	case errors.Is(err, rfbclip.ErrTooLong):
		return usageError{err}
	}
	return err
}

// greet drops what the guest has said to nobody, and shakes hands.
func (g *guestAgent) greet(conn hostEnd, s *rfbclip.Server) error {
	end := time.Now().Add(g.timeout)
	stale := make([]byte, 32<<10)
	for {
		if err := conn.SetDeadline(time.Now().Add(staleSilence)); err != nil {
			return err
		}
		_, err := conn.Read(stale)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return err
		}
		if time.Now().After(end) {
			return os.ErrDeadlineExceeded // it never stops
		}
	}
	for wait := greetAgain; ; wait *= 2 {
		soon := time.Now().Add(wait)
		if soon.After(end) {
			soon = end
		}
		if err := conn.SetDeadline(soon); err != nil {
			return err
		}
		err := s.Greet()
		if !errors.Is(err, os.ErrDeadlineExceeded) || soon.Equal(end) {
			return err
		}
	}
}

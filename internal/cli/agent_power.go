package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/xenchan/xenchan/agent/qga"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore"
)

const powerHelp = `

Without --no-wait it ends when that has come true, or with exit status 4 when it
has not after the time of --within.`

func (g *guestAgent) shutdownCommand() *cobra.Command {
	return g.powerCommand("shutdown", "end the guest, and wait until it has",
		"Shutdown tells the guest to shut down, and waits until its domain is gone."+powerHelp,
		func(cmd *cobra.Command, wait bool, within time.Duration) error {
			return g.power(cmd.Context(), qga.PowerDown, wait, within)
		})
}

func (g *guestAgent) rebootCommand() *cobra.Command {
	return g.powerCommand("reboot", "reboot the guest, and wait until it is another domain",
		"Reboot tells the guest to reboot, and waits until there is a domain of its name with\nanother domid: on Xen a reboot makes a new domain."+powerHelp,
		func(cmd *cobra.Command, wait bool, within time.Duration) error {
			return g.power(cmd.Context(), qga.Reboot, wait, within)
		})
}

func (g *guestAgent) powerCommand(name, short, long string, run func(*cobra.Command, bool, time.Duration) error) *cobra.Command {
	var noWait bool
	var within time.Duration
	cmd := &cobra.Command{
		Use: name, Short: short, Long: long,
		Example: fmt.Sprintf("  xenchan agent web %s\n  xenchan agent web %[1]s --within 5m\n  xenchan agent web %[1]s --no-wait", name),
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if within <= 0 {
				return usagef("--within %v: give a time above 0", within)
			}
			return run(cmd, !noWait, within)
		},
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "end when the guest was told")
	cmd.Flags().DurationVar(&within, "within", time.Minute, "`TIME` to wait")
	return cmd
}

func (g *guestAgent) power(ctx context.Context, mode qga.Mode, wait bool, within time.Duration) error {
	tools, err := g.toolstack(ctx)
	if err != nil {
		return err
	}
	defer tools.Store.Close()
	d, err := tools.Resolve(ctx, g.domain)
	if err != nil {
		return err
	}
	err = g.with(ctx, func(c *qga.Client) error { return c.Shutdown(ctx, mode) })
	if err != nil || !wait {
		return err
	}
	soon, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err = tools.Store.WaitUntil(soon, func(r xenstore.Reader) (bool, error) { return ended(soon, r, d, mode) })
	if timedOut(ctx, soon, err) {
		return timeoutError{fmt.Errorf("%v was told to %s, and has not after %v", d, mode, within)}
	}
	return err
}

// ended reports whether a domain is gone and, after a reboot, there again.
func ended(ctx context.Context, r xenstore.Reader, d toolstack.Domain, mode qga.Mode) (bool, error) {
	v := xenstore.NewValues(ctx, r)
	again := false
	for _, id := range v.List("/local/domain") {
		home := "/local/domain/" + id
		switch name := v.Get(home + "/name"); {
		case id == d.ID.String():
			return false, v.Err()
		case name == d.Name && name != "":
			again = true
		}
	}
	return again || mode != qga.Reboot, v.Err()
}

func (g *guestAgent) passwordCommand() *cobra.Command {
	var crypted bool
	cmd := &cobra.Command{
		Use:   "set-password USER",
		Short: "set a user's password, read from standard input",
		Long: `Set-password sets the password of a user of the guest. It is asked for on a
terminal, or else the first line of standard input, and never an argument, which
others could read.`,
		Example: "  xenchan agent web set-password admin\n  mkpasswd | xenchan agent web set-password admin --crypted",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			password, err := g.readPassword(args[0])
			if err != nil {
				return err
			}
			return g.with(cmd.Context(), func(c *qga.Client) error {
				return c.SetPassword(cmd.Context(), args[0], password, crypted)
			})
		},
	}
	cmd.Flags().BoolVar(&crypted, "crypted", false, "it is a hash, as in the guest's /etc/shadow")
	return cmd
}

func (g *guestAgent) readPassword(user string) (string, error) {
	var password string
	if f, ok := g.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(g.stderr, "password of %s in the guest: ", printable(user))
		typed, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(g.stderr)
		if err != nil {
			return "", err
		}
		password = string(typed)
	} else {
		line, err := bufio.NewReader(io.LimitReader(g.stdin, 4<<10)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		password = strings.TrimRight(line, "\r\n")
	}
	if password == "" {
		return "", usagef("the password is empty")
	}
	return password, nil
}

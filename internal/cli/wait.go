package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/agent/qga"
	"github.com/xenchan/xenchan/internal/bootconfig"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenbus"
	"github.com/xenchan/xenchan/xenstore"
)

// waiting is one `wait`.
type waiting struct {
	*app
	domain, channel string
	seen            bool // there was a domain, so that one that is gone may be rebooting
}

// What wait can wait for.
const (
	forGuest      = "guest"
	forAgent      = "agent"
	forConfigured = "configured"
)

var waitTargets = []string{forGuest, forAgent, forConfigured}

func (a *app) waitCommand() *cobra.Command {
	var target string
	var timeout time.Duration
	w := &waiting{app: a}
	cmd := &cobra.Command{
		Use:   "wait DOMAIN",
		Short: "Wait until a guest is up, answers, or is configured",
		Long: `Wait returns when

  guest       the guest's kernel has connected a channel, or that of --channel
  agent       the guest agent answers
  configured  the guest has said that it is configured, to a ` + "`xenchan config serve`" + `

and with exit status 4 when it is not so within --timeout; with 1 when the guest says that
it could not be configured. A guest that reboots meanwhile is waited for, if DOMAIN is a
name or a uuid.`,
		Example: `  xenchan wait web --for agent --timeout 2m
  xenchan wait web --for configured && xenchan agent web ping`,
		Args:              args(1, 1),
		ValidArgsFunction: a.completeDomain,
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout < 0 {
				return usagef("--timeout %v: give a time of 0 or more", timeout)
			}
			w.domain = args[0]
			return w.within(cmd.Context(), target, timeout)
		},
	}
	cmd.Flags().StringVar(&target, "for", forGuest, "`WHAT` to wait for: "+strings.Join(waitTargets, ", "))
	cmd.Flags().StringVar(&w.channel, "channel", "", "`NAME` of the channel, of the guest or the agent")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "`TIME` to wait, such as 2m; 0 is for ever")
	cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(waitTargets, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (w *waiting) within(ctx context.Context, target string, limit time.Duration) error {
	if !slices.Contains(waitTargets, target) {
		return usagef("--for %s%s: wait for %s", target, didYouMean(target, waitTargets), strings.Join(waitTargets, ", "))
	}
	if target == forConfigured && w.channel != "" {
		return usagef("--channel %s: that a guest is configured holds for the whole guest", w.channel)
	}
	soon := ctx
	if limit > 0 {
		var cancel context.CancelFunc
		soon, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	var err error
	hint := "its guest has not connected a channel (`xenchan list` shows the states)"
	switch target {
	case forGuest:
		err = w.until(soon, w.connected)
	case forAgent:
		err, hint = w.agent(soon), "its guest agent does not answer: see that it runs and has the channel open (`xenchan doctor`)"
	case forConfigured:
		err, hint = w.until(soon, w.configured), "its guest has not said that it is configured, as by `xenchan-guest config done` while `xenchan config serve` runs"
	}
	if timedOut(ctx, soon, err) {
		return timeoutError{fmt.Errorf("%s: after %v %s", w.domain, limit, hint)}
	}
	return err
}

// until waits until f holds for the domain.
func (w *waiting) until(ctx context.Context, f func(context.Context, xenstore.Reader, toolstack.Domain) (bool, error)) error {
	tools, err := w.toolstack(ctx)
	if err != nil {
		return err
	}
	defer tools.Store.Close()
	return tools.Store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
		d, err := toolstack.ReadDomain(ctx, r, w.domain)
		if w.comesAgain(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		w.seen = true
		return f(ctx, r, d)
	})
}

// comesAgain reports whether a domain that is gone may only be rebooting. A domid is
// never another's.
func (w *waiting) comesAgain(err error) bool {
	_, byID := xen.ParseDomID(w.domain)
	return errors.Is(err, toolstack.ErrNoDomain) && w.seen && byID != nil
}

func (w *waiting) connected(ctx context.Context, r xenstore.Reader, d toolstack.Domain) (bool, error) {
	all, err := toolstack.ReadChannels(ctx, r, d)
	for _, c := range all {
		is := func(state *int) bool { return state != nil && *state == int(xenbus.Connected) }
		if is(c.State) && is(c.FrontendState) && (w.channel == "" || w.channel == c.Name) {
			return true, nil
		}
	}
	return false, err
}

func (w *waiting) configured(ctx context.Context, r xenstore.Reader, d toolstack.Domain) (bool, error) {
	text, err := toolstack.ReadReady(ctx, r, d.ID)
	if err != nil || text == "" || text == bootconfig.Ready {
		return text != "", err
	}
	return false, notConfigured(w.domain, text)
}

// agentPause is the time between two questions to an agent that does not answer.
const agentPause = 500 * time.Millisecond

// agent asks the guest agent until it answers.
func (w *waiting) agent(ctx context.Context) error {
	if w.channel == "" {
		w.channel = agentChannel
	}
	for {
		err := w.askAgent(ctx)
		gone := errors.Is(err, toolstack.ErrNoDomain) || errors.Is(err, toolstack.ErrNoChannel)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case gone && !w.seen, errors.Is(err, toolstack.ErrNoDomain) && !w.comesAgain(err):
			return err
		}
		w.seen = w.seen || !gone
		select {
		case <-time.After(agentPause):
		case <-ctx.Done():
		}
	}
}

func (w *waiting) askAgent(ctx context.Context) error {
	conn, err := w.openChannel(ctx, w.domain, w.channel, false)
	if err != nil {
		return err
	}
	c := qga.New(conn)
	defer c.Close()
	w.seen = true
	return c.Ping(ctx)
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/internal/watch"
	"github.com/xenchan/xenchan/toolstack"
)

// watchOptions is what watch was asked for.
type watchOptions struct {
	now     bool
	kinds   []string
	count   int
	timeout time.Duration
}

func (a *app) watchCommand() *cobra.Command {
	var o watchOptions
	cmd := &cobra.Command{
		Use:   "watch [DOMAIN [NAME]]",
		Short: "Print what happens to channels, as it happens",
		Long: `Watch prints a line for each event until it is interrupted: a channel that is
attached or detached, a state, a client, what is known of the program in the guest,
bytes that were lost or skipped. With -o json each line is an object. A domain given by its name
or uuid is followed through reboots.

Attach, detach and state events are in xenstore. Client, guest and loss events come
from the daemon: watch takes them up whenever one answers, and says when none does.`,
		Example: `  xenchan watch
  xenchan watch web org.example.agent.0 -o json
  xenchan watch --now --event present,attach,detach -o json
  xenchan watch web --event attach --count 1 --timeout 1m    wait for the next channel`,
		Args:              args(0, 2),
		ValidArgsFunction: a.completeChannel,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(cmd); err != nil {
				return err
			}
			return a.watch(cmd.Context(), args, o)
		},
	}
	cmd.Flags().BoolVar(&o.now, "now", false, "begin with what is there already, as present events, and\nwhether a daemon answers")
	cmd.Flags().StringSliceVar(&o.kinds, "event", nil, "only events of these `KINDS`, with commas between:\n"+strings.Join(eventKinds()[:6], ", ")+",\n"+strings.Join(eventKinds()[6:], ", "))
	cmd.Flags().IntVar(&o.count, "count", 0, "end after `N` events")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 0, "end after `TIME`, as 10s or 5m; with --count the exit status is 4 then")
	cmd.RegisterFlagCompletionFunc("event", cobra.FixedCompletions(eventKinds(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func eventKinds() (names []string) {
	for _, k := range channel.EventKinds() {
		names = append(names, string(k))
	}
	return names
}

func (o watchOptions) check(cmd *cobra.Command) error {
	known := eventKinds()
	for _, k := range o.kinds {
		if !slices.Contains(known, k) {
			return usagef("--event %s%s: the kinds are %s", k, didYouMean(k, known), strings.Join(known, ", "))
		}
	}
	if cmd.Flags().Changed("count") && o.count <= 0 {
		return usagef("--count %d: give a number above 0", o.count)
	}
	if cmd.Flags().Changed("timeout") && o.timeout <= 0 {
		return usagef("--timeout %v: give a time above 0", o.timeout)
	}
	return nil
}

var errWatchedEnough = errors.New("as many events as were asked for")

func (a *app) watch(ctx context.Context, args []string, o watchOptions) error {
	tools, err := a.toolstack(ctx)
	if err != nil {
		return err
	}
	defer tools.Store.Close()
	wants, err := watched(ctx, tools, args)
	if err != nil {
		return err
	}
	soon, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.timeout > 0 {
		soon, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	go a.awaitReaderGone(soon, cancel)
	seen := 0
	err = watch.Run(soon, watch.Config{Tools: tools, Wants: wants, Now: o.now}, func(e channel.Event) error {
		if len(o.kinds) > 0 && !slices.Contains(o.kinds, string(e.Kind)) {
			return nil
		}
		if err := a.printEvent(e); err != nil {
			return err
		}
		if seen++; seen == o.count {
			return errWatchedEnough
		}
		return nil
	})
	switch {
	case errors.Is(err, errWatchedEnough), ctx.Err() != nil: // interrupted: that is how one ends it
		return nil
	case errors.Is(soon.Err(), context.DeadlineExceeded) && o.count > 0:
		return timeoutError{fmt.Errorf("%d of %d events within %v", seen, o.count, o.timeout)}
	case soon.Err() != nil:
		return nil
	}
	return err
}

// watched is what DOMAIN and NAME stand for: a domain that is there now, also once
// it has another domid, and a channel that need not be there yet.
func watched(ctx context.Context, tools *toolstack.Toolstack, args []string) (func(toolstack.Channel) bool, error) {
	if len(args) == 0 {
		return nil, nil
	}
	d, err := tools.Resolve(ctx, args[0])
	if err != nil {
		return nil, err
	}
	byID := args[0] == d.ID.String()
	return func(c toolstack.Channel) bool {
		mine := c.DomID == uint16(d.ID) || !byID && (c.Domain == args[0] || c.UUID != "" && strings.EqualFold(c.UUID, args[0]))
		return mine && (len(args) < 2 || c.Name == args[1])
	}, nil
}

// awaitReaderGone ends a watch whose output nobody reads any more: it would notice
// only with its next event, which may never come.
func (a *app) awaitReaderGone(ctx context.Context, gone func()) {
	f, ok := a.stdout.(*os.File)
	if !ok {
		return
	}
	out, err := f.SyscallConn()
	for err == nil && ctx.Err() == nil {
		if r, err := sys.PollNow(out); err != nil || r.Hangup {
			gone()
			return
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// printEvent prints one line, at once.
func (a *app) printEvent(e channel.Event) error {
	if a.output == "json" {
		return a.printJSONLine(e)
	}
	_, err := fmt.Fprintf(a.stdout, "%s  %-7s  %s  %s  %s\n", e.Time.Local().Format("15:04:05.000"), e.Kind, cell(e.Domain), cell(e.Name), describeEvent(e))
	return err
}

// describeEvent says what has happened, for people.
func describeEvent(e channel.Event) string {
	var b strings.Builder
	switch e.Kind {
	case channel.EventPresent, channel.EventAttach:
		fmt.Fprintf(&b, "%s %s, %s", printable(string(e.Channel.Connection)), cell(e.Channel.Path+e.Channel.TTY), stateWord(e.Channel.State))
	case channel.EventDetach:
		fmt.Fprintf(&b, "domain %d, device %d", e.DomID, e.DevID)
	case channel.EventState:
		fmt.Fprintf(&b, "%s, guest %s", stateWord(e.State), stateWord(e.FrontendState))
	case channel.EventClient:
		fmt.Fprintf(&b, "%s: %s here", e.Change, number(e.Clients))
		if e.WaitingClients != nil && *e.WaitingClients > 0 {
			fmt.Fprintf(&b, ", %d waiting", *e.WaitingClients)
		}
		if e.PID != nil && e.UID != nil {
			fmt.Fprintf(&b, " (pid %d, uid %d)", *e.PID, *e.UID)
		}
	case channel.EventGuest:
		b.WriteString(string(e.Guest))
	case channel.EventLoss:
		fmt.Fprintf(&b, "%d bytes lost, from %d to %d; %s in all", e.Lost.Bytes, e.Lost.From, e.Lost.To, number(e.Dropped))
	case channel.EventSkip:
		fmt.Fprintf(&b, "%d bytes skipped, as a client wanted; %s in all", e.Skipped, number(e.AllSkipped))
	case channel.EventObserver:
		fmt.Fprintf(&b, "%s: %s here (pid %s, uid %s)", e.Change, number(e.Observers), number(e.PID), number(e.UID))
	case channel.EventDaemon:
		b.WriteString("no daemon answers: no client, guest and loss events")
		if *e.Running {
			b.Reset()
			b.WriteString("a daemon answers")
		}
	case channel.EventMissed:
		fmt.Fprintf(&b, "%d events: this reader is too slow", e.Missed)
	}
	return b.String()
}

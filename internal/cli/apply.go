package cli

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/reconcile"
	"github.com/xenchan/xenchan/toolstack"
)

func (a *app) applyCommand() *cobra.Command {
	var dry bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Make channels as the drop-in files declare them",
		Long: `Apply has the daemon read the drop-in files anew, waits until each domain has the
channels that they declare, and prints what became of each. A file in
` + xenChannelsDir + ` whose name ends in .toml says which domains have which channels:

  [[domain]]
  match = "web-*"    # a name, a uuid or a pattern, or a list of them
  channels = [
    "connection=socket,name=org.example.agent.0",
    { name = "org.example.log.0", connection = "pty", spool = "4MiB" },
  ]

A channel is a SPEC, or its keys one by one; ` + "`xenchan attach --help`" + ` has them. The daemon
gives them to domains that come, however they come, and takes them away when no file
declares them any more. It touches no channel that it has not made. Apply changes
nothing when anything is wrong with the files (exit status 2), and fails (1) when a
channel cannot be as declared. SIGHUP has the daemon read the files too, and passes
over those that have an error.`,
		Example: `  xenchan apply --dry-run
  xenchan apply
  xenchan apply -o json | jq '.channels[] | select(.action == "failed")'`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return usagef("--timeout %v: give a time above 0", timeout)
			}
			w, err := a.locate()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			path := reconcile.ApplyPath
			if dry {
				path += "?dry_run=1"
			}
			var report reconcile.Report
			switch err := daemon.Call(ctx, w.runDir(), http.MethodPost, path, &report); {
			case timedOut(cmd.Context(), ctx, err):
				return timeoutError{fmt.Errorf("the daemon has not finished within %v; it goes on, and `xenchan list` shows how far it is", timeout)}
			case err != nil:
				return fmt.Errorf("nothing is applied: %w", err)
			}
			return a.printApplied(report)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would become of each channel")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "`TIME` to wait at most; the daemon goes on after it")
	return cmd
}

// printApplied prints what was done, and ends the command as it went.
func (a *app) printApplied(report reconcile.Report) error {
	if a.output == "json" {
		if err := a.printJSON(report); err != nil {
			return err
		}
	} else if len(report.Channels) > 0 {
		w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		head := "ACTION"
		if report.DryRun {
			head = "WOULD BE"
		}
		fmt.Fprintln(w, "DOMAIN\tNAME\t"+head+"\tFILE")
		for _, r := range report.Channels {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", cell(r.Domain), cell(r.Name), r.Action, cell(r.File))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	for _, m := range report.Mistakes {
		a.warn("%s", m.Message)
	}
	bad := a.warnDeclared(report)
	switch {
	case len(report.Mistakes) > 0:
		return usageError{errSilent}
	case bad:
		return errSilent
	}
	return nil
}

// warnDeclared says of each channel that is not as declared why, and whether there
// is one that will not become so by itself.
func (a *app) warnDeclared(report reconcile.Report) (bad bool) {
	for _, r := range report.Channels {
		if r.Problem != "" {
			a.warn("%s of %s: %s: %s", r.Name, r.Domain, r.Action, r.Problem)
		}
		bad = bad || r.Bad()
	}
	return bad
}

// warnMissing says which declared channels of a domain, or of all, are not as
// declared, if a daemon answers.
func (a *app) warnMissing(ctx context.Context, tools *toolstack.Toolstack, args []string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var report reconcile.Report
	if daemon.Call(ctx, tools.RunDir, http.MethodGet, reconcile.ReportPath, &report) != nil {
		return
	}
	var only toolstack.Domain
	if len(args) == 1 {
		only, _ = tools.Resolve(ctx, args[0])
	}
	report.Channels = slices.DeleteFunc(report.Channels, func(r reconcile.Row) bool {
		return !r.Bad() || len(args) == 1 && r.DomID != uint16(only.ID)
	})
	a.warnDeclared(report)
}

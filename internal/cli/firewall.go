package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/agent/firewall"
	"github.com/xenchan/xenchan/internal/daemon"
)

// allowRow is one line of what is allowed.
type allowRow struct {
	Domains  []string `json:"domains"`
	Channels []string `json:"channels"`
	Who      []string `json:"who"`
	Commands []string `json:"commands"`
	File     string   `json:"file"`
	Line     int      `json:"line"`
}

func (a *app) firewallCommand() *cobra.Command {
	var dir string
	var apply bool
	cmd := &cobra.Command{
		Use:   "firewall",
		Short: "Show who may send what to guest agents, and check the files",
		Long: `Firewall reads the files in ` + xenFirewallDir + ` whose names end in .toml and
prints who may send which commands to which guest agents. A file says

  [[agent]]
  match = "web-*"     # domains: a name, a uuid or a pattern, or a list of them
  channel = "` + agentChannel + `"   # this by default; or a list of names
  max_line = 4194304  # the longest message in bytes, either way; this by default
  [[agent.allow]]
  who = ["alice", "@adm", "1000"]       # users, groups, numbers; "*" is everybody
  commands = ["guest-ping", "guest-network-*"]

A channel that a file names lets through what some file allows, and nothing else,
for root as for others; it must have connection=socket. One that no file names is
open to all who may connect. All calls are in the daemon's log.

The daemon reads the files when it starts, on SIGHUP, and with --apply. One with an
error changes nothing then (exit status 2); when the daemon starts, it closes the
channels that it mentions.`,
		Example: "  xenchan firewall\n  xenchan firewall --apply\n  xenchan firewall --dir ./firewall.d -o json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if apply && dir != "" {
				return usagef("--apply is for the daemon's own directory; leave --dir out")
			}
			return a.firewall(cmd.Context(), dir, apply)
		},
	}
	cmd.Flags().BoolVar(&apply, "apply", false, "have the daemon put them in force")
	cmd.Flags().StringVar(&dir, "dir", "", "`DIR` of the files (default "+xenFirewallDir+";\non an embedded host DIR/firewall.d)")
	cmd.MarkFlagDirname("dir")
	return cmd
}

func (a *app) firewall(ctx context.Context, dir string, apply bool) error {
	if dir == "" {
		w, err := a.locate()
		if err != nil {
			return err
		}
		dir = w.firewallDir()
		if apply {
			if err := a.applyFirewall(ctx, w.runDir()); err != nil {
				return err
			}
		}
	}
	set, err := firewall.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, m := range set.Mistakes() {
		a.warn("%s", m)
		fmt.Fprint(a.stderr, m.Snippet())
	}
	for _, s := range set.Strangers() {
		a.warn("%s", s)
	}
	if err := a.printAllowed(set); err != nil {
		return err
	}
	if len(set.Broken) > 0 {
		return usageError{errSilent}
	}
	return nil
}

func (a *app) applyFirewall(ctx context.Context, runDir string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var report firewall.Report
	if err := daemon.Call(ctx, runDir, http.MethodPost, firewall.ReportPath, &report); err != nil {
		return fmt.Errorf("nothing is applied: %w", err)
	}
	for _, m := range report.Mistakes {
		a.warn("%s", m)
	}
	if len(report.Mistakes) > 0 {
		return usageError{errSilent}
	}
	return nil
}

func (a *app) printAllowed(set *firewall.Set) error {
	rows := []allowRow{}
	for _, p := range set.Policies {
		none := allowRow{p.Match, p.Channels, []string{}, []string{}, p.File, p.Line}
		for _, allow := range p.Allow {
			row := none
			row.Line, row.Commands = allow.Line, allow.Commands
			for _, w := range allow.Who {
				row.Who = append(row.Who, w.Text)
			}
			rows = append(rows, row)
		}
		if len(p.Allow) == 0 {
			rows = append(rows, none)
		}
	}
	if a.output == "json" {
		return a.printJSON(rows)
	}
	if len(rows) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DOMAINS\tCHANNELS\tWHO\tCOMMANDS\tWHERE")
	for _, r := range rows {
		line := []string{cell(strings.Join(r.Domains, " ")), cell(strings.Join(r.Channels, " ")), cell(strings.Join(r.Who, " ")), cell(strings.Join(r.Commands, " "))}
		fmt.Fprintf(w, "%s\t%s:%d\n", strings.Join(line, "\t"), cell(r.File), r.Line)
	}
	return w.Flush()
}

// firewallRules are the rules of a daemon and the directory that they come from.
type firewallRules struct {
	*firewall.Current
	dir string
	log *slog.Logger
	mu  sync.Mutex // one reader of the files at a time
}

// openFirewall puts the files of a directory in force, those with an error too.
func openFirewall(dir string, log *slog.Logger) *firewallRules {
	set, err := firewall.ReadDir(dir)
	if err != nil { // nobody can say what they allow
		set = firewall.Closed(dir)
		log.Error("agent firewall: "+agentChannel+" is closed", "error", err)
	}
	for _, m := range set.Mistakes() {
		log.Error("agent firewall: the channels that the file mentions are closed", "error", m.String())
	}
	f := &firewallRules{Current: firewall.NewCurrent(set), dir: dir, log: log}
	f.tell(set)
	return f
}

func (f *firewallRules) tell(set *firewall.Set) {
	for _, s := range set.Strangers() {
		f.log.Warn("agent firewall", "problem", s)
	}
	if n := len(set.Policies); n > 0 {
		f.log.Info("agent firewall", "dir", f.dir, "agents", n)
	}
}

// reload puts the files in force as they are now. With an error in them, or in the
// directory, all stays as it is.
func (f *firewallRules) reload() firewall.Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	set, _ := f.Get()
	report, now := set.Report(f.dir)
	for _, m := range report.Mistakes {
		f.log.Error("agent firewall stays as it is", "error", m)
	}
	if len(report.Mistakes) == 0 && report.Pending {
		f.Put(now)
		f.tell(now)
		report.Pending = false
	}
	return report
}

// poll reloads now and then, for a process that nobody can tell to.
func (f *firewallRules) poll(ctx context.Context, every time.Duration) {
	for ctx.Err() == nil {
		select {
		case <-time.After(every):
			f.reload()
		case <-ctx.Done():
		}
	}
}

// routes are how commands ask, and have the daemon reload.
func (f *firewallRules) routes(all map[string]http.HandlerFunc) {
	answer := func(look func() firewall.Report) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(look())
		}
	}
	all["POST "+firewall.ReportPath] = answer(f.reload)
	all["GET "+firewall.ReportPath] = answer(func() firewall.Report {
		set, _ := f.Get()
		report, _ := set.Report(f.dir)
		return report
	})
}

// Package cli is the command line of the host binary: a file for each command.
// It is the one place that chooses between real Xen and the embedded host.
//
// Results go to stdout. Everything else, errors and warnings, goes to stderr and
// begins with "xenchan: ".
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/toolstack"
)

// Exit statuses, a contract with scripts.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2 // wrong usage or configuration
	exitNotFound = 3 // no such domain or channel
	exitTimeout  = 4
)

// app is what all commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	host, store, output string // the global flags
}

// Main runs the command line and returns the exit status.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if !errors.Is(err, errSilent) {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintln(stderr, "xenchan: "+line)
		}
	}
	return exitStatus(err)
}

// errSilent ends a command that has said on its own what is wrong.
var errSilent = errors.New("already reported")

// usageError is wrong usage or configuration.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func exitStatus(err error) int {
	var usage usageError
	var spec *channel.SpecError
	switch {
	case errors.As(err, &usage), errors.As(err, &spec):
		return exitUsage
	case errors.Is(err, toolstack.ErrNoDomain), errors.Is(err, toolstack.ErrNoChannel):
		return exitNotFound
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	}
	return exitFailed
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "xenchan",
		Short: "Channels between a Xen host and its guests",
		Long: `xenchan serves and manages channels: private byte streams between programs on
a Xen host and programs in its guests, which find them by name.

Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 no such domain
or channel, 4 timed out.`,
		Example: `  xenchan demo                                  see it work, without Xen
  xenchan attach web connection=socket,name=org.example.agent.0 --wait
  xenchan list
  xenchan connect web org.example.agent.0`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usagef("unknown command %q%s; `xenchan --help` lists them", args[0], didYouMean(args[0], commandNames(cmd)))
		},
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkFlags() },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.host, "host", "", "the host: auto, xen or sim:DIR (default $XENCHAN_HOST, else auto: Xen if this is a Xen host)")
	flags.StringVar(&a.store, "store", "", "xenstored's socket or the xenbus device (default: where libxenstore looks)")
	flags.StringVarP(&a.output, "output", "o", "table", "form of the result: table, wide or json")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see `%s --help`", err, cmd.CommandPath())
	})
	root.CompletionOptions.HiddenDefaultCmd = false
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(
		a.demoCommand(), a.simCommand(), a.simGuestCommand(), a.simEchoCommand(), a.daemonCommand(),
		a.checkCommand(), a.attachCommand(), a.detachCommand(), a.listCommand(), a.connectCommand(),
		a.versionCommand(),
	)
	return root
}

var outputs = []string{"table", "wide", "json"}

func (a *app) checkFlags() error {
	if !slices.Contains(outputs, a.output) {
		return usagef("-o %s: the forms are %s", a.output, strings.Join(outputs, ", "))
	}
	return nil
}

// args checks the number of arguments and says which are missing.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("too few arguments; usage: %s", cmd.UseLine())
		case len(args) > most:
			return usagef("too many arguments from %q on; usage: %s", args[most], cmd.UseLine())
		}
		return nil
	}
}

func commandNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			names = append(names, c.Name())
		}
	}
	return names
}

func didYouMean(word string, known []string) string {
	if near := channel.Nearest(word, known); near != "" {
		return fmt.Sprintf(" (did you mean %s?)", near)
	}
	return ""
}

// warn writes a line that is not the result.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintf(a.stderr, "xenchan: "+format+"\n", args...)
}

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
	"github.com/spf13/pflag"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/toolstack"
)

// Exit statuses, a contract with scripts.
const (
	exitDone = 0
	// exitFailed is for what depends on the state of the host: a name that is
	// taken, an eighth channel, a path that is in the way, no xenstore.
	exitFailed = 1
	// exitUsage is for what can be seen from the command line and from files
	// alone: a malformed SPEC or configuration, and a name or path that can
	// never be one.
	exitUsage    = 2
	exitNotFound = 3 // no such domain or channel
	exitTimeout  = 4
)

// app is what all commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	host, store, output string // the global flags
}

// Main runs the command line and returns the exit status. SIGINT and SIGTERM
// end a command in good order; a second one ends the process at once.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, output: "table"}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errSilent), isExitCode(err):
	case ctx.Err() != nil:
		a.warn("interrupted")
	default:
		for line := range strings.SplitSeq(err.Error(), "\n") {
			a.warn("%s", line)
		}
	}
	return exitStatus(err)
}

// errSilent ends a command that has said on its own what is wrong.
var errSilent = errors.New("already reported")

// timeoutError is a wait that was too long.
type timeoutError struct{ error }

// usageError is wrong usage or configuration.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func exitStatus(err error) int {
	var usage usageError
	var spec *channel.SpecError
	var timeout timeoutError
	var code exitCode
	switch {
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage), errors.As(err, &spec):
		return exitUsage
	case errors.Is(err, toolstack.ErrNoDomain), errors.Is(err, toolstack.ErrNoChannel):
		return exitNotFound
	case errors.As(err, &timeout), errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	}
	return exitFailed
}

// Commands is the whole command line, for what describes it. It is not to be run.
func Commands() *cobra.Command { return (&app{output: outputs[0]}).root() }

func (a *app) root() *cobra.Command {
	var showVersion bool
	root := &cobra.Command{
		Use:   "xenchan",
		Short: "Channels between a Xen host and its guests",
		Long: `xenchan serves and manages channels: private byte streams between programs on
a Xen host and programs in its guests, which find them by name.`,
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
		RunE: func(cmd *cobra.Command, _ []string) error {
			if showVersion {
				return a.printVersion(cmd)
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkFlags() },
	}
	a.globalFlags(root.PersistentFlags())
	root.Flags().BoolVar(&showVersion, "version", false, "print the version")
	a.adopt(root)
	root.SetHelpCommand(helpCommand())
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
	root.RegisterFlagCompletionFunc("host", cobra.FixedCompletions([]string{"auto", "xen", "sim:"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	for _, g := range a.groups() {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.title
			root.AddCommand(c)
		}
	}
	return root
}

// globalFlags are the flags of all commands. What is set already is their default.
func (a *app) globalFlags(flags *pflag.FlagSet) {
	flags.StringVar(&a.host, "host", a.host, "the `HOST` to work on: auto, xen or sim:DIR (default $XENCHAN_HOST, else\nauto, which is Xen if this is a Xen host)")
	flags.StringVar(&a.store, "store", a.store, "`PATH` of xenstored's socket or of the xenbus device (default\n$XENSTORED_PATH, else where libxenstore looks)")
	flags.StringVarP(&a.output, "output", "o", a.output, "`FORM` of the result: table, wide or json")
	flags.BoolP("help", "h", false, "show what a command does")
}

// adopt gives a command tree our help and our errors.
func (a *app) adopt(root *cobra.Command) {
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w%s; see `%s --help`", err, nearFlag(cmd, err), cmd.CommandPath())
	})
	root.SetHelpFunc(help)
	root.SetUsageFunc(func(cmd *cobra.Command) error { help(cmd, nil); return nil })
}

// group is the commands that help shows under one title.
type group struct {
	title    string
	commands []*cobra.Command
}

// groups are all commands. A new one is a line here and a page in docs/.
func (a *app) groups() []group {
	return []group{
		{"Channels", []*cobra.Command{
			a.listCommand(),
			a.attachCommand(),
			a.detachCommand(),
			a.connectCommand(),
			a.agentCommand(),
			a.configCommand(),
			a.waitCommand(),
			a.watchCommand(),
			a.checkCommand(),
			a.convertCommand(),
			a.doctorCommand(),
		}},
		{"Domains", []*cobra.Command{
			a.createCommand(),
			a.destroyCommand(),
			a.rebootCommand(),
			a.unpauseCommand(),
		}},
		{"Host", []*cobra.Command{
			a.daemonCommand(),
			a.applyCommand(), a.firewallCommand(),
		}},
		{"Without Xen", []*cobra.Command{
			a.demoCommand(),
			a.simCommand(),
			a.simGuestCommand(),
			a.simEchoCommand(),
		}},
		{"More", []*cobra.Command{
			a.versionCommand(),
			a.completionCommand(),
		}},
	}
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

// nearFlag is a hint when err is about a flag that is only misspelled.
func nearFlag(cmd *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return ""
	}
	var known []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	if near := channel.Nearest(unknown.GetSpecifiedName(), known); near != "" {
		return fmt.Sprintf(" (did you mean --%s?)", near)
	}
	return ""
}

// warn writes a line that is not the result.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintln(a.stderr, "xenchan: "+printable(fmt.Sprintf(format, args...)))
}

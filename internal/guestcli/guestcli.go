// Package guestcli is the command line of the guest's binary.
//
// Results go to stdout. Everything else goes to stderr and begins with
// "xenchan-guest: ".
package guestcli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/xenchan/xenchan/guest"
)

// Exit statuses, those of xenchan.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitTimeout = 4
)

const exitHelp = `Exit status:
  0 done, 1 failed, 2 wrong usage, 4 timed out`

// app is what all commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	dir string // of the links
}

// Main runs the command line and returns the exit status.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	err := a.execute(ctx, args)
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*exec.ExitError](err); ok && e.Exited() {
		return e.ExitCode() // run's command has said the rest
	}
	a.warn("%v", err)
	var usage usageError
	var timeout timeoutError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &timeout):
		return exitTimeout
	}
	return exitFailed
}

// usageError is wrong usage.
type usageError struct{ error }

// timeoutError is a wait that was too long.
type timeoutError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func (a *app) warn(format string, args ...any) {
	fmt.Fprintf(a.stderr, "xenchan-guest: "+format+"\n", args...)
}

// command is one of the binary's. Cobra would make the binary too large.
type command struct {
	use, short, long, example string
	least, most               int // arguments; most may be -1
	flags                     *pflag.FlagSet
	run                       func(ctx context.Context, args []string) error
}

// name is the words in front of the arguments.
func (c command) name() string {
	var words []string
	for _, w := range strings.Fields(c.use) {
		if strings.ToLower(w) != w || w[0] == '[' {
			break
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// newFlags is a command's flags, with those of all.
func (a *app) newFlags() *pflag.FlagSet {
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	dir := os.Getenv("XENCHAN_DIR")
	if dir == "" {
		dir = guest.Dir
	}
	f.StringVar(&a.dir, "dir", dir, "`DIR` of the channels (default $XENCHAN_DIR, else\n"+guest.Dir+")")
	f.BoolP("help", "h", false, "show what a command does")
	f.Usage = func() {}
	return f
}

// execute runs a command line.
func (a *app) execute(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "--help" || args[0] == "-h" {
		a.help()
		return nil
	}
	if args[0] == "__complete" {
		a.complete(args[1:])
		return nil
	}
	for _, c := range a.commands() {
		words := len(strings.Fields(c.name()))
		if len(args) < words || strings.Join(args[:words], " ") != c.name() {
			continue
		}
		err := c.flags.Parse(args[words:])
		wanted, _ := c.flags.GetBool("help")
		switch rest := c.flags.Args(); {
		case wanted:
			c.help(a.stdout)
			return nil
		case err != nil:
			return usagef("%w; see `xenchan-guest %s --help`", err, c.name())
		case len(rest) < c.least:
			return usagef("too few arguments; usage: xenchan-guest %s", c.use)
		case c.most >= 0 && len(rest) > c.most:
			return usagef("too many arguments from %q on; usage: xenchan-guest %s", rest[c.most], c.use)
		default:
			return c.run(ctx, rest)
		}
	}
	return usagef("unknown command %q; `xenchan-guest --help` lists them", strings.Join(args[:min(2, len(args))], " "))
}

func (a *app) commands() []command {
	return []command{
		a.listCommand(), a.waitCommand(), a.openCommand(), a.runCommand(), a.setupCommand(), a.clipboardCommand(),
		a.configFetchCommand(), a.configGetCommand(), a.configDoneCommand(), a.completionCommand(), a.versionCommand(),
	}
}

func (a *app) help() {
	fmt.Fprint(a.stdout, `xenchan-guest finds the channels between this guest and its host by name. Each is a
terminal below `+guest.Dir+`.

Usage:
  xenchan-guest COMMAND [flags]

Examples:
  xenchan-guest list
  xenchan-guest wait org.example.agent.0 --timeout 30s
  echo hello | xenchan-guest open org.example.agent.0
  xenchan-guest run org.qemu.guest_agent.0 -- qemu-ga -m isa-serial -p {}
  xenchan-guest config fetch

Commands:
`)
	for _, c := range a.commands() {
		fmt.Fprintf(a.stdout, "  %-12s  %s\n", c.name(), c.short)
	}
	fmt.Fprintf(a.stdout, "\n%s\n\n`xenchan-guest COMMAND --help` says more about a command.\n", exitHelp)
}

func (c command) help(w io.Writer) {
	fmt.Fprintf(w, "%s\n\nUsage:\n  xenchan-guest %s\n\nExamples:\n%s\n\nFlags:\n%s", c.long, c.use, c.example, c.flags.FlagUsages())
}

// hintAfter is how long a command waits in silence.
const hintAfter = 2 * time.Second

// wait waits for a channel, for ever if limit is 0, and says so after a while.
func (a *app) wait(ctx context.Context, name string, limit time.Duration) (string, error) {
	if err := guest.CheckName(name); err != nil {
		return "", usageError{err}
	}
	hint := time.AfterFunc(hintAfter, func() {
		a.warn("waiting for channel %s; `xenchan-guest list` has those that are there", name)
	})
	defer hint.Stop()
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	path, err := guest.Wait(ctx, a.dir, name)
	if errors.Is(err, context.DeadlineExceeded) {
		err = timeoutError{fmt.Errorf("there is no channel %s after %v; `xenchan-guest list` has those that are there", name, limit)}
	}
	return path, err
}

// Command rigctl runs programs on real Xen under emulation; see package rig.
//
//	rigctl build                    make the images
//	rigctl up [flags]               start a machine, or keep the one that runs
//	rigctl exec [flags] SCRIPT|-    run a shell script in its dom0
//	rigctl exec [flags] -c COMMAND
//	rigctl test [flags] BINARY ARG… run a Go test binary in its dom0:
//	                                go test -tags xen -exec 'bin/rigctl test' ./…
//	rigctl console                  print the end of the serial console's log
//	rigctl status
//	rigctl down                     stop the machine
//
// exec and test start a machine when none runs. exec takes the one that runs as it
// is; up and test replace it when it is of another version, and tests of several
// processes wait for each other. Flags: -oxenstored means the other machine, with
// the OCaml xenstored; both may run at once. -idle DURATION stops a machine without
// work; -with FILE (for test, several times) puts a program into the test's PATH.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT) // go test quits what hangs
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Exit statuses of our own; else it is that of what ran in dom0.
const (
	statusUsage  = 2
	statusFailed = 125
)

// command is one invocation.
type command struct {
	rig            *rig.Rig
	opts           rig.Options
	with           []string
	inline         string
	limit          time.Duration
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	verbs := map[string]func(*command, context.Context) (int, error){
		"build": func(c *command, ctx context.Context) (int, error) { return 0, c.rig.Build(ctx) },
		"up":    (*command).up,
		"down":  func(c *command, ctx context.Context) (int, error) { return 0, c.rig.Down(ctx) },
		"exec":  (*command).exec,
		"test":  (*command).test,
		"status": func(c *command, _ context.Context) (int, error) {
			_, err := fmt.Fprintln(c.stdout, c.rig.Status())
			return 0, err
		},
		"console": func(c *command, _ context.Context) (int, error) {
			_, err := fmt.Fprint(c.stdout, c.rig.ConsoleTail())
			return 0, err
		},
	}
	if len(args) == 0 || verbs[args[0]] == nil {
		fmt.Fprintln(stderr, "usage: rigctl build|up|exec|test|console|status|down …")
		return statusUsage
	}
	c := &command{stdin: stdin, stdout: stdout, stderr: stderr}
	if err := c.parse(args[0], args[1:]); err != nil {
		return statusUsage
	}
	var err error
	if c.rig, err = rig.Open(stderr, c.opts); err == nil {
		var status int
		if status, err = verbs[args[0]](c, ctx); err == nil {
			return status
		}
	}
	fmt.Fprintln(stderr, "rigctl:", err)
	return statusFailed
}

// parse reads the flags before the first argument; those behind it belong to
// what is run.
func (c *command) parse(verb string, args []string) error {
	flags := flag.NewFlagSet("rigctl "+verb, flag.ContinueOnError)
	flags.SetOutput(c.stderr)
	flags.BoolVar(&c.opts.OXenstored, "oxenstored", os.Getenv("XENCHAN_RIG_XENSTORED") == "o",
		"use the OCaml xenstored (also with XENCHAN_RIG_XENSTORED=o)")
	flags.DurationVar(&c.opts.Idle, "idle", 20*time.Minute, "stop a machine that had no work for so long; 0 = never")
	flags.DurationVar(&c.limit, "limit", 10*time.Minute, "how long a script may take")
	flags.StringVar(&c.inline, "c", "", "the script itself")
	flags.Func("with", "a program for the test's PATH", func(s string) error {
		c.with = append(c.with, s)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	c.args = flags.Args()
	return nil
}

// up may replace a machine, so it waits for tests that use it.
func (c *command) up(ctx context.Context) (int, error) {
	release, err := c.rig.Reserve(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	return 0, c.rig.Up(ctx)
}

// exec takes the machine that runs as it is, beside a test too: it is how one
// looks into a test that hangs.
func (c *command) exec(ctx context.Context) (int, error) {
	script := c.inline
	switch {
	case script != "":
	case len(c.args) == 0:
		return 0, errors.New("exec needs a script, -, or -c COMMAND")
	case c.args[0] == "-":
		data, err := io.ReadAll(c.stdin)
		if err != nil {
			return 0, err
		}
		script, c.args = string(data), c.args[1:]
	default:
		data, err := os.ReadFile(c.args[0])
		if err != nil {
			return 0, err
		}
		script, c.args = string(data), c.args[1:]
	}
	if len(c.args) > 0 {
		words := make([]string, len(c.args))
		for i, a := range c.args {
			words[i] = rig.Quote(a)
		}
		script = "set -- " + strings.Join(words, " ") + "\n" + script
	}
	if !c.rig.Running() {
		if _, err := c.up(ctx); err != nil {
			return 0, err
		}
	}
	return c.rig.Run(ctx, rig.Job{Script: script, Limit: c.limit}, c.stdout, c.stderr)
}

func (c *command) test(ctx context.Context) (int, error) {
	if len(c.args) == 0 {
		return 0, errors.New("test needs a test binary")
	}
	release, err := c.rig.Reserve(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	if err := c.rig.Up(ctx); err != nil {
		return 0, err
	}
	t := rig.Test{Binary: c.args[0], Args: c.args[1:], With: c.with}
	return c.rig.RunTest(ctx, t, c.stdout, c.stderr)
}

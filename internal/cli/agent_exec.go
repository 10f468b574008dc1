package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/agent/qga"
)

// maxInput is how much of standard input a command in a guest can get: it goes
// there in one message.
const maxInput = 8 << 20

// exitCode ends xenchan with the status of a command in a guest.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func isExitCode(err error) bool {
	_, ok := errors.AsType[exitCode](err)
	return ok
}

func (g *guestAgent) execCommand() *cobra.Command {
	var limit time.Duration
	var env []string
	var stdin bool
	cmd := &cobra.Command{
		Use:   "exec [flags] PROGRAM [ARG...]",
		Short: "run a program",
		Long: `Exec runs a program in the guest, as the user that the agent runs as, and prints
what it has written, to standard output and standard error, when it has ended. Its
exit status is that of xenchan, 128 and the number for one that a signal killed.
There is no shell, unless PROGRAM is one. The agent keeps 16 MiB of each output.

With -o json the result is one object, and the exit status 0 says that the program
was run, whatever its own is.`,
		Example: `  xenchan agent web exec uname -a
  xenchan agent web exec --limit 5m -- sh -c 'apt-get update && apt-get -y upgrade'
  xenchan agent web exec -i tee /etc/motd <motd`,
		Args: args(1, 1<<10),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit <= 0 {
				return usagef("--limit %v: give a time above 0", limit)
			}
			c := qga.Command{Path: args[0], Args: args[1:], Env: env}
			if stdin {
				var err error
				if c.Stdin, err = io.ReadAll(io.LimitReader(g.stdin, maxInput+1)); err != nil {
					return err
				}
				if len(c.Stdin) > maxInput {
					return usagef("standard input has more than %d MiB: copy it to a file in the guest first (cp)", maxInput>>20)
				}
			}
			return g.exec(cmd.Context(), c, limit)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().DurationVar(&limit, "limit", time.Minute, "`TIME` after which it is killed")
	cmd.Flags().StringArrayVarP(&env, "env", "e", nil, "`KEY=VALUE` of its environment, several times; else it has the agent's")
	cmd.Flags().BoolVarP(&stdin, "stdin", "i", false, "give it standard input, up to 8 MiB, read to its end first")
	return cmd
}

func (g *guestAgent) exec(ctx context.Context, cmd qga.Command, limit time.Duration) error {
	return g.with(ctx, func(c *qga.Client) error {
		if err := c.Sync(ctx); err != nil { // the limit is the program's
			return err
		}
		soon, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		r, err := c.Exec(soon, cmd)
		switch {
		case errors.Is(err, qga.ErrKilled) && ctx.Err() == nil:
			return timeoutError{fmt.Errorf("%s was killed after %v (--limit): %w", cmd.Path, limit, err)}
		case err != nil:
			return err
		case g.output == "json":
			return g.printJSON(execResult(r))
		}
		g.stdout.Write(r.Stdout)
		g.stderr.Write(r.Stderr)
		if r.StdoutTruncated || r.StderrTruncated {
			g.warn("the agent has kept only a part of what %s wrote", cmd.Path)
		}
		switch {
		case r.Signal != 0:
			return exitCode(128 + r.Signal)
		case r.ExitCode != 0:
			return exitCode(r.ExitCode)
		}
		return nil
	})
}

// execJSON is the form of a result in JSON. Encoding is that of both outputs:
// base64 when one of them is not UTF-8.
type execJSON struct {
	ExitStatus int    `json:"exit_status"`
	Signal     int    `json:"signal"`
	Encoding   string `json:"encoding"`
	Stdout     string `json:"stdout"`
	Stderr     string `json:"stderr"`
	Truncated  bool   `json:"truncated"`
}

func execResult(r qga.Result) execJSON {
	j := execJSON{
		ExitStatus: r.ExitCode, Signal: r.Signal, Truncated: r.StdoutTruncated || r.StderrTruncated,
		Encoding: "utf-8", Stdout: string(r.Stdout), Stderr: string(r.Stderr),
	}
	if !utf8.Valid(r.Stdout) || !utf8.Valid(r.Stderr) {
		j.Encoding = "base64"
		j.Stdout, j.Stderr = base64.StdEncoding.EncodeToString(r.Stdout), base64.StdEncoding.EncodeToString(r.Stderr)
	}
	return j
}

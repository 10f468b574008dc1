package qga

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Command is a program to run in a guest, as the user the agent runs as.
type Command struct {
	Path  string // looked for in the agent's PATH when it has no slash
	Args  []string
	Env   []string // KEY=VALUE; none is the agent's own
	Stdin []byte
}

// Result is how a Command ended. What it wrote is there when it has ended, and
// not before: that is how the agent gives it.
type Result struct {
	ExitCode        int    `json:"exitcode"`
	Signal          int    `json:"signal,omitempty"` // that killed it; 0 = none
	Stdout          []byte `json:"out-data"`
	Stderr          []byte `json:"err-data"`
	StdoutTruncated bool   `json:"out-truncated,omitempty"`
	StderrTruncated bool   `json:"err-truncated,omitempty"`
}

// The agent is asked soon at first, since most commands are short.
const (
	firstPoll = 5 * time.Millisecond
	lastPoll  = 500 * time.Millisecond
)

// ErrKilled is an Exec whose context ended first.
var ErrKilled = errors.New("the command took too long")

// Exec runs a command and waits for its end. When the context ends first, the
// command is killed by the guest's kill(1), and the error is [ErrKilled].
func (c *Client) Exec(ctx context.Context, cmd Command) (Result, error) {
	var started struct {
		PID int64 `json:"pid"`
	}
	args := map[string]any{"path": cmd.Path, "capture-output": true}
	if len(cmd.Args) > 0 {
		args["arg"] = cmd.Args
	}
	if len(cmd.Env) > 0 {
		args["env"] = cmd.Env
	}
	if len(cmd.Stdin) > 0 {
		args["input-data"] = cmd.Stdin
	}
	if err := c.Call(ctx, "guest-exec", args, &started); err != nil {
		return Result{}, err
	}
	for wait := firstPoll; ; wait = min(2*wait, lastPoll) {
		r, exited, err := c.status(ctx, started.PID)
		switch {
		case ctx.Err() != nil:
			return Result{}, c.kill(context.WithoutCancel(ctx), started.PID)
		case err != nil || exited:
			return r, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// status asks how a process is. The agent forgets one that it has said is over.
func (c *Client) status(ctx context.Context, pid int64) (Result, bool, error) {
	var s struct {
		Result
		Exited bool `json:"exited"`
	}
	err := c.Call(ctx, "guest-exec-status", map[string]int64{"pid": pid}, &s)
	return s.Result, s.Exited, err
}

// kill ends a process in the guest and makes the agent forget it. It returns
// ErrKilled, with what went wrong if something did.
func (c *Client) kill(ctx context.Context, pid int64) error {
	args := map[string]any{"path": "kill", "arg": []string{"-KILL", strconv.FormatInt(pid, 10)}}
	if err := c.Call(ctx, "guest-exec", args, nil); err != nil {
		return fmt.Errorf("%w; it may still run as process %d of the guest: %w", ErrKilled, pid, err)
	}
	for range 20 {
		if _, exited, err := c.status(ctx, pid); exited || err != nil {
			return ErrKilled
		}
		time.Sleep(lastPoll / 10)
	}
	return fmt.Errorf("%w; it still runs as process %d of the guest", ErrKilled, pid)
}

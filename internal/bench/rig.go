package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/xenchan/xenchan/internal/fdstore"
)

// rig is an embedded host with some channels and a daemon.
type rig struct {
	dir      string
	channels []place
	manager  *fdstore.Manager
	children []*child
	daemon   *child
	attached time.Duration // from the daemon's start to the last channel's
}

// child is a process that ends when its stdin does, or with SIGTERM.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

// newRig makes channels and a daemon that has attached them all.
func newRig(ctx context.Context, o options, channels int) (*rig, error) {
	r, err := newHost(ctx, channels)
	if err == nil {
		err = r.startDaemon(ctx, o)
	}
	if err != nil && r != nil {
		r.close()
		r = nil
	}
	return r, err
}

// newHost makes channels that nobody serves yet.
func newHost(ctx context.Context, channels int) (r *rig, err error) {
	r = &rig{channels: places(channels)}
	// Spools are in memory on a real host too, where the run directory is below /run.
	if r.dir, err = os.MkdirTemp("/dev/shm", "xb"); err != nil {
		r.dir, err = os.MkdirTemp("", "xb")
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	for _, role := range []string{"host", "guests"} {
		if err := r.play(ctx, role); err != nil {
			return nil, fmt.Errorf("start the %s: %w", role, err)
		}
	}
	return r, nil
}

// play starts this program in another role and waits until that is ready.
func (r *rig) play(ctx context.Context, role string) error {
	_, _, err := r.playOn(ctx, role)
	return err
}

// playOn is play with what the program says next, and what it is told.
func (r *rig) playOn(ctx context.Context, role string) (says io.Reader, tell io.Writer, err error) {
	c, out, err := start(ctx, "/proc/self/exe", "-role", role, "-dir", r.dir, "-channels", strconv.Itoa(len(r.channels)))
	if err != nil {
		return nil, nil, err
	}
	r.children = append(r.children, c)
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil || line != "ready\n" {
		return nil, nil, fmt.Errorf("it says %q: %w", line, err)
	}
	return lines, c.stdin, nil
}

func start(ctx context.Context, name string, args ...string) (*child, io.Reader, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr); err != nil {
		return nil, nil, err
	}
	return &child{cmd, in}, out, cmd.Start()
}

// end ends a process and waits for it.
func (c *child) end() {
	_ = c.stdin.Close()
	_ = c.cmd.Process.Signal(os.Interrupt)
	_ = c.cmd.Wait()
}

func (r *rig) startDaemon(ctx context.Context, o options) error {
	program, err := filepath.Abs(o.daemon)
	if err == nil {
		r.manager, err = fdstore.NewManager(filepath.Join(r.dir, "notify.sock"))
	}
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, "daemon", "--host", "sim:"+r.dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	log, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	started, err := r.manager.Equip(cmd)
	if err != nil {
		return err
	}
	begin := time.Now()
	err = cmd.Start()
	started()
	if err != nil {
		return err
	}
	r.daemon = &child{cmd, in}
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.Contains(line, "msg=ready"):
			r.attached = time.Since(begin)
			go func() { _, _ = io.Copy(io.Discard, log) }() // ends with the daemon
			return nil
		case strings.Contains(line, "level=ERROR"):
			return fmt.Errorf("the daemon says: %s", line)
		}
	}
	return fmt.Errorf("the daemon has ended: %w", cmd.Wait())
}

// dial connects to a channel.
func (r *rig) dial(i int) (net.Conn, error) { return net.Dial("unix", r.channels[i].socket(r.dir)) }

func (r *rig) pid() int { return r.daemon.cmd.Process.Pid }

func (r *rig) close() {
	if r.daemon != nil {
		r.daemon.end()
	}
	for i := len(r.children) - 1; i >= 0; i-- {
		r.children[i].end()
	}
	if r.manager != nil {
		_ = r.manager.Close()
	}
	_ = os.RemoveAll(r.dir)
}

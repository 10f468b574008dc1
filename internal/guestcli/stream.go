package guestcli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/guest"
)

func (a *app) openCommand() command {
	flags := a.newFlags()
	limit := timeoutFlag(flags)
	linger := flags.Duration("linger", time.Second, "after the end of the input, a silence of this `TIME` ends it")
	return command{
		use: "open NAME [flags]", short: "Talk to the host over a channel", flags: flags, least: 1, most: 1,
		long: `Open waits for a channel and connects it to standard input and output, byte by byte. When
the channel is unplugged, it waits for it to come again. After the
end of its input it stays for as long as the host goes on talking.`,
		example: `  echo hello | xenchan-guest open org.example.agent.0
  xenchan-guest open org.example.agent.0 --linger 24h </dev/null`,
		run: func(ctx context.Context, args []string) error {
			if _, err := a.wait(ctx, args[0], *limit); err != nil {
				return err
			}
			conn, err := guest.Open(ctx, a.dir, args[0])
			if err != nil {
				return err
			}
			defer conn.Close()
			return a.talk(ctx, conn, *linger)
		},
	}
}

// talk copies both ways. It ends after the input, when the host is silent.
func (a *app) talk(ctx context.Context, conn *guest.Conn, linger time.Duration) error {
	var heard atomic.Int64
	heard.Store(time.Now().UnixNano())
	out, in := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := io.Copy(heardWriter{a.stdout, &heard}, conn)
		out <- err
	}()
	go func() {
		_, err := io.Copy(conn, a.stdin)
		in <- err
	}()
	ended := false
	for {
		var silence <-chan time.Time
		if ended {
			left := linger - time.Since(time.Unix(0, heard.Load()))
			if left <= 0 {
				return nil
			}
			silence = time.After(left)
		}
		select {
		case err := <-out:
			return err
		case err := <-in:
			if err != nil {
				return err
			}
			ended = true
			heard.Store(time.Now().UnixNano())
		case <-silence:
		case <-ctx.Done():
			return errors.New("interrupted")
		}
	}
}

// heardWriter takes down when something was written last.
type heardWriter struct {
	io.Writer
	at *atomic.Int64
}

func (w heardWriter) Write(p []byte) (int, error) {
	w.at.Store(time.Now().UnixNano())
	return w.Writer.Write(p)
}

func (a *app) runCommand() command {
	flags := a.newFlags()
	limit := timeoutFlag(flags)
	return command{
		use: "run NAME [flags] -- COMMAND [ARGUMENT…]", short: "Run a program on a terminal that stays",
		flags: flags, least: 2, most: -1,
		long: `Run waits for a channel and runs a program that wants a serial port. It gives the program a
terminal of its own, which stays when the channel is unplugged and comes again: qemu-ga, for one, stays deaf after a hang-up. {} in an argument, and
$XENCHAN_TTY, are the terminal's path. The exit status is the program's.`,
		example: `  xenchan-guest run org.qemu.guest_agent.0 -- qemu-ga -m isa-serial -p {}
  xenchan-guest run org.example.agent.0 -- sh -c 'exec agent <>"$XENCHAN_TTY" >&0'`,
		run: func(ctx context.Context, args []string) error {
			if _, err := exec.LookPath(args[1]); err != nil {
				return err
			}
			if _, err := a.wait(ctx, args[0], *limit); err != nil {
				return err
			}
			return a.run(ctx, args[0], args[1:])
		},
	}
}

// run is run's own: the program gets SIGTERM when ctx ends, and when the channel
// cannot be used any more.
func (a *app) run(ctx context.Context, name string, command []string) error {
	conn, err := guest.Open(context.WithoutCancel(ctx), a.dir, name)
	if err != nil {
		return err
	}
	pty, err := guest.NewPTY(conn)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	defer pty.Close()
	for i := range command {
		command[i] = strings.ReplaceAll(command[i], "{}", pty.Path)
	}
	end, cancel := context.WithCancel(ctx)
	defer cancel()
	child := exec.CommandContext(end, command[0], command[1:]...)
	child.Env = append(os.Environ(), "XENCHAN_TTY="+pty.Path)
	child.Stdin, child.Stdout, child.Stderr = a.stdin, a.stdout, a.stderr
	child.Cancel = func() error { return child.Process.Signal(syscall.SIGTERM) }
	ended := make(chan error, 1)
	go func() { ended <- child.Run() }()
	select {
	case err := <-ended:
		if errors.Is(err, context.Canceled) {
			return nil // it was asked to end, and did so well
		}
		return err
	case err := <-pty.Done():
		cancel()
		<-ended
		return err
	}
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/toolstack"
)

// escape is ^], which ends a terminal's connection as in xl console and telnet.
const escape = 0x1d

func (a *app) connectCommand() *cobra.Command {
	var linger time.Duration
	cmd := &cobra.Command{
		Use:   "connect DOMAIN NAME",
		Short: "Talk to a guest over a channel",
		Long: `Connect joins a channel to this terminal, in raw mode; ^] ends it. With a pipe or
a file instead of a terminal, standard input is sent to the guest and what the
guest says goes to standard output. After the end of the input, connect stays for
as long as the guest goes on talking: --linger is how long a silence ends it.`,
		Example: `  xenchan connect web org.example.console.0
  echo '{"execute":"guest-ping"}' | xenchan connect web org.qemu.guest_agent.0
  xenchan connect web org.example.log.0 --linger 1h </dev/null >guest.log`,
		Args:              args(2, 2),
		ValidArgsFunction: a.completeChannel,
		RunE: func(cmd *cobra.Command, args []string) error {
			tools, err := a.toolstack(cmd.Context())
			if err != nil {
				return err
			}
			defer tools.Store.Close()
			d, err := tools.Resolve(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			c, err := tools.Find(cmd.Context(), d, args[1])
			if err != nil {
				return err
			}
			conn, err := dial(cmd.Context(), c)
			if err != nil {
				return err
			}
			defer conn.Close()
			return a.relay(cmd.Context(), conn, linger)
		},
	}
	cmd.Flags().DurationVar(&linger, "linger", time.Second, "how long a silence ends the connection after the end of the input")
	return cmd
}

// hostEnd is a client's side of an endpoint.
type hostEnd interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
}

// dial opens the host end of a channel as any other client would.
func dial(ctx context.Context, c toolstack.Channel) (hostEnd, error) {
	if c.Connection == channel.Socket {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", c.Path)
		if err != nil {
			return nil, fmt.Errorf("%s has no listener (is a daemon running on this host?): %w", c.Name, err)
		}
		return conn.(*net.UnixConn), nil
	}
	if c.TTY == "" {
		return nil, fmt.Errorf("%s has no terminal yet: no daemon has served it", c.Name)
	}
	f, err := os.OpenFile(c.TTY, os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("the terminal of %s: %w", c.Name, err)
	}
	return f, nil
}

// relay moves bytes both ways until either side ends.
func (a *app) relay(ctx context.Context, conn hostEnd, linger time.Duration) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	in := a.stdin
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		old, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return err
		}
		defer term.Restore(int(f.Fd()), old)
		fmt.Fprint(a.stderr, "connected; ^] ends it\r\n")
		in, linger = &untilEscape{r: in}, 0
	}
	sent := make(chan error, 1)
	go func() { // ends with the input; the process does not wait for a terminal's
		_, err := io.Copy(conn, in)
		sent <- err
		if half, ok := conn.(interface{ CloseWrite() error }); ok && linger > 0 {
			half.CloseWrite()
		}
		conn.SetReadDeadline(time.Now().Add(linger))
	}()
	err := a.receive(conn, sent, linger)
	if ctx.Err() != nil {
		return nil // interrupted: that is how one ends it
	}
	return err
}

// receive prints what the guest says. Once the input has ended, each piece gives
// the guest another linger.
func (a *app) receive(conn hostEnd, sent <-chan error, linger time.Duration) error {
	buf := make([]byte, 32<<10)
	ended := false
	for {
		n, err := conn.Read(buf)
		if _, werr := a.stdout.Write(buf[:n]); werr != nil {
			return werr
		}
		select {
		case serr := <-sent:
			if ended = true; serr != nil {
				return fmt.Errorf("send: %w", serr)
			}
		default:
		}
		switch {
		case err == nil:
			if ended {
				conn.SetReadDeadline(time.Now().Add(linger))
			}
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.EIO), errors.Is(err, net.ErrClosed):
			return nil
		default:
			return fmt.Errorf("receive: %w", err)
		}
	}
}

// untilEscape ends at the escape character.
type untilEscape struct {
	r    io.Reader
	over bool
}

func (u *untilEscape) Read(p []byte) (int, error) {
	if u.over {
		return 0, io.EOF
	}
	n, err := u.r.Read(p)
	for i, b := range p[:n] {
		if b == escape {
			u.over = true
			return i, nil
		}
	}
	return n, err
}

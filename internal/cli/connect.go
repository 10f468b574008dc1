package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/endpoint/unixsock"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/devicemodel"
	"github.com/xenchan/xenchan/toolstack"
)

// connectOptions is what connect was asked for.
type connectOptions struct {
	linger        time.Duration
	lingers       bool // linger was given
	observe, live bool
}

func (a *app) connectCommand() *cobra.Command {
	var o connectOptions
	cmd := &cobra.Command{
		Use:   "connect DOMAIN NAME",
		Short: "Talk to a guest over a channel",
		Long: `Connect joins a channel to this terminal, in raw mode; ^] ends it. With a pipe or
a file instead of a terminal, standard input is sent to the guest and what the
guest says goes to standard output. After the end of the input, connect stays for
as long as the guest goes on talking: --linger is how long a silence ends it.

A client gets what the guest has said since the last client, and then what it says.
With --live it begins from now: what waits for it is skipped, counted in
` + "`xenchan list`" + `, and lost for everybody.

With --observe it is no client but looks on: it gets what the guest says from now on,
sends nothing, takes nothing away from clients and keeps nobody waiting. What it is
too slow for it misses, and is told how much. It ends with ^] or ^C, or after --linger
of silence, if that is given.

The exit status is 1 when the channel goes away before that, as with detach or
with the end of the domain.`,
		Example: `  xenchan connect web org.example.console.0
  echo '{"execute":"guest-ping"}' | xenchan connect web org.qemu.guest_agent.0
  xenchan connect web org.example.log.0 --linger 1h </dev/null >guest.log
  xenchan connect web org.example.console.0 --live
  xenchan connect web org.example.console.0 --observe`,
		Args:              args(2, 2),
		ValidArgsFunction: a.completeChannel,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.lingers = cmd.Flags().Changed("linger")
			if o.linger < 0 {
				return usagef("--linger %v: give a time of 0 or more", o.linger)
			}
			if o.live && o.observe {
				return usagef("--live is for clients, and --observe is none: give one of them")
			}
			return a.connect(cmd.Context(), args[0], args[1], o)
		},
	}
	cmd.Flags().BoolVar(&o.observe, "observe", false, "look on: see what the guest says, and be no client")
	cmd.Flags().BoolVar(&o.live, "live", false, "begin from now, and skip what waits for a client")
	cmd.Flags().DurationVar(&o.linger, "linger", time.Second, "`TIME` of silence that ends it after the end of the input")
	return cmd
}

func (a *app) connect(ctx context.Context, domain, name string, o connectOptions) error {
	if o.observe {
		c, runDir, err := a.findServed(ctx, domain, name)
		if err != nil {
			return err
		}
		return a.observe(ctx, c, runDir, o)
	}
	conn, err := a.openChannel(ctx, domain, name, o.live)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := relay{conn: conn, name: name, linger: o.linger, out: a.stdout}
	if f, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return a.onTerminal(ctx, r, f)
	}
	r.in = a.stdin
	return r.run(ctx)
}

// findServed finds a channel that is served on this host, and the run directory of
// the daemon that serves it.
func (a *app) findServed(ctx context.Context, domain, name string) (c toolstack.Channel, runDir string, err error) {
	tools, err := a.toolstack(ctx)
	if err != nil {
		return c, "", err
	}
	defer tools.Store.Close()
	d, err := tools.Resolve(ctx, domain)
	if err != nil {
		return c, "", err
	}
	return findServedOf(ctx, tools, d, name)
}

// findServedOf is findServed for a domain that was found.
func findServedOf(ctx context.Context, tools *toolstack.Toolstack, d toolstack.Domain, name string) (c toolstack.Channel, runDir string, err error) {
	if c, err = tools.Find(ctx, d, name); err != nil {
		return c, "", err
	}
	if !served(ctx, tools, c) {
		return c, "", fmt.Errorf("%s is served by domain %d: connect there", name, c.BackendDomID)
	}
	runDir = tools.RunDir
	if c.ServedBy == channel.ServerStandIn {
		runDir = devicemodel.RunDir(runDir, d.ID)
	}
	return c, runDir, nil
}

// openChannel opens the host end of a channel that is served on this host. Who may not
// use xenstore may still be let in to a channel, if its socket is where it is by itself.
func (a *app) openChannel(ctx context.Context, domain, name string, live bool) (hostEnd, error) {
	c, runDir, err := a.findServed(ctx, domain, name)
	switch {
	case errors.Is(err, fs.ErrPermission):
		w, whereErr := a.locate()
		path, pathErr := channel.DefaultPath(w.runDir(), domain, name)
		if whereErr != nil || pathErr != nil {
			return nil, err
		}
		c.Info = channel.Info{Name: name, Connection: channel.Socket, Path: path}
		conn, dialErr := dial(ctx, c, live)
		if dialErr != nil {
			return nil, errors.Join(err, dialErr)
		}
		return conn, nil
	case err != nil:
		return nil, err
	}
	return a.open(ctx, c, runDir, live)
}

// onTerminal is a relay with the terminal in raw mode.
func (a *app) onTerminal(ctx context.Context, r relay, f *os.File) error {
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return err
	}
	defer func() {
		term.Restore(int(f.Fd()), old)
		fmt.Fprintln(a.stderr)
	}()
	fmt.Fprintf(a.stderr, "connected to %s; ^] ends it\r\n", printable(r.name))
	keys := newKeyboard(a.stderr, func() { r.conn.SetWriteDeadline(time.Now().Add(lastWords)) })
	go keys.run(f) // ends with the process: a terminal cannot be told to stop reading
	r.in, r.linger = keys, 0
	return r.run(ctx)
}

// lastWords is how long what was typed before the escape may take to be sent.
const lastWords = 300 * time.Millisecond

// hostEnd is a client's side of an endpoint.
type hostEnd interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// open opens the host end of a channel, as a client that may begin from now.
func (a *app) open(ctx context.Context, c toolstack.Channel, runDir string, live bool) (hostEnd, error) {
	if c.Connection != channel.PTY {
		return dial(ctx, c, live)
	}
	w, err := a.locate()
	if err != nil {
		return nil, err
	}
	if c.Type == toolstack.Type && !w.custom {
		// A terminal that a dead daemon has left may belong to anybody by now.
		if _, err := daemon.Query(ctx, runDir); err != nil {
			return nil, fmt.Errorf("%s is not served: %w", c.Name, err)
		}
	}
	if live {
		if _, err := toDaemon(c, runDir).Skip(ctx); err != nil {
			return nil, fmt.Errorf("skip what waits in %s: %w", c.Name, err)
		}
	}
	return dial(ctx, c, false)
}

// dial opens the host end of a channel as any other client would. Live is for a
// socket alone.
func dial(ctx context.Context, c toolstack.Channel, live bool) (hostEnd, error) {
	if c.Connection == channel.Socket {
		var d net.Dialer
		if live {
			d.LocalAddr = unixsock.LiveAddr()
		}
		conn, err := d.DialContext(ctx, "unix", c.Path)
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("%s is not for this user (its \"allow\" or the mode of its socket says so): %w", c.Name, err)
		}
		if err != nil {
			return nil, fmt.Errorf("%s has no listener (is a daemon running on this host?): %w", c.Name, err)
		}
		return conn.(*net.UnixConn), nil
	}
	if c.TTY == "" {
		return nil, fmt.Errorf("%s has no terminal yet: no daemon has served it", c.Name)
	}
	if info, err := os.Stat(c.TTY); err == nil && info.Mode()&fs.ModeCharDevice == 0 {
		return nil, fmt.Errorf("the terminal of %s: %s is no terminal", c.Name, c.TTY)
	}
	f, err := os.OpenFile(c.TTY, os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("the terminal of %s (is a daemon running on this host?): %w", c.Name, err)
	}
	return f, nil
}

// toDaemon is how a channel is called when its daemon is asked about it.
func toDaemon(c toolstack.Channel, runDir string) daemon.Channel {
	return daemon.Channel{RunDir: runDir, DomID: c.DomID, DevID: c.DevID, Name: c.Name}
}

// relay moves bytes both ways until either side ends.
type relay struct {
	conn   hostEnd
	name   string
	in     io.Reader
	out    io.Writer
	linger time.Duration // silence that ends it after the end of the input
}

// afterHangup is how long a sender has to notice the end of the channel, when
// the receiver has.
const afterHangup = 100 * time.Millisecond

func (r relay) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { r.conn.Close() })
	defer stop()
	sent := make(chan error, 1)
	go func() { // ends with the input, or with the connection; nobody waits for a silent input
		_, err := io.Copy(r.conn, r.in)
		sent <- err
		if half, ok := r.conn.(interface{ CloseWrite() error }); ok && r.linger > 0 {
			half.CloseWrite()
		}
		r.conn.SetReadDeadline(time.Now().Add(r.linger))
	}()
	ended, err := r.receive(sent)
	switch {
	case ctx.Err() != nil:
		return nil // interrupted: that is how one ends it
	case err != nil:
		return err
	case ended:
		return nil
	}
	// The other side has closed. That is the end of the channel, unless the
	// input is over too.
	select {
	case err = <-sent:
		if err == nil {
			return nil
		}
	case <-time.After(afterHangup):
	}
	return fmt.Errorf("%s was closed from the other side: the channel is detached, or the daemon or the domain has ended", r.name)
}

// receive writes what the guest says until the connection ends, and reports
// whether the input had ended before. Once it has, each piece gives the guest
// another linger.
func (r relay) receive(sent <-chan error) (ended bool, err error) {
	buf := make([]byte, 32<<10)
	for {
		n, readErr := r.conn.Read(buf)
		if _, err := r.out.Write(buf[:n]); err != nil {
			return ended, err
		}
		select {
		case err := <-sent:
			if err != nil && !over(err) {
				return true, fmt.Errorf("send: %w", err)
			}
			ended = err == nil || errors.Is(err, os.ErrDeadlineExceeded)
		default:
		}
		switch {
		case readErr == nil:
			if ended {
				r.conn.SetReadDeadline(time.Now().Add(r.linger))
			}
		case over(readErr):
			return ended, nil
		default:
			return ended, fmt.Errorf("receive: %w", readErr)
		}
	}
}

// over tells the end of a connection from a failure.
func over(err error) bool {
	for _, end := range []error{io.EOF, os.ErrDeadlineExceeded, net.ErrClosed, os.ErrClosed, syscall.EIO, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

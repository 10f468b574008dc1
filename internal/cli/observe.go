package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/toolstack"
)

// observerPatience is how long an observer waits for the next daemon.
const observerPatience = 5 * time.Second

// observe prints what the guest of a channel sends, until it is interrupted or the
// channel ends. It goes on with the next daemon, and says what it has missed.
func (a *app) observe(ctx context.Context, c toolstack.Channel, runDir string, o connectOptions) error {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	go a.awaitReaderGone(ctx, leave)
	if f, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		old, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return err
		}
		defer func() {
			term.Restore(int(f.Fd()), old)
			fmt.Fprintln(a.stderr)
		}()
		fmt.Fprintf(a.stderr, "looking on at %s; ^] or ^C ends it\r\n", printable(c.Name))
		go func() { // ends with the process: a terminal cannot be told to stop reading
			awaitKey(f)
			leave()
		}()
	}
	v := view{out: a.stdout, warn: a.warn, silent: func() {}}
	if o.lingers {
		timer := time.AfterFunc(o.linger, leave)
		defer timer.Stop()
		v.silent = func() { timer.Reset(o.linger) }
	}
	err := v.follow(ctx, toDaemon(c, runDir))
	switch {
	case ctx.Err() != nil:
		return nil // interrupted, or silent: that is how one ends it
	case err == nil:
		return fmt.Errorf("%s was closed from the other side: the channel is detached, or the domain has ended", c.Name)
	}
	return err
}

// awaitKey reads a terminal in raw mode up to ^], ^C or its end.
func awaitKey(terminal io.Reader) {
	const interrupt = 3
	key := make([]byte, 1)
	for {
		if n, err := terminal.Read(key); err != nil || n == 1 && (key[0] == escape || key[0] == interrupt) {
			return
		}
	}
}

// view is what an observer has seen.
type view struct {
	out    io.Writer
	warn   func(format string, args ...any)
	silent func() // called with each piece

	channel string // "" before the first piece
	next    int64  // position of the byte that comes next
	writing error  // of the output
}

var errAnother = errors.New("another channel has its place")

// follow returns nil when the channel has ended.
func (v *view) follow(ctx context.Context, c daemon.Channel) error {
	lost := time.Now()
	for {
		seen := false
		err := c.Observe(ctx, func(o daemon.Observed) error {
			seen = true
			return v.show(o)
		})
		if seen {
			lost = time.Now()
		}
		switch {
		case err == nil, errors.Is(err, errAnother):
			return nil
		case ctx.Err() != nil, v.writing != nil, v.channel == "", time.Since(lost) > observerPatience:
			return err
		}
		// The next daemon says "no" until it has found the channel.
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (v *view) show(o daemon.Observed) error {
	if v.channel == "" {
		v.channel, v.next = o.Channel, o.At
	}
	if o.Channel != "" && o.Channel != v.channel || o.At < v.next {
		return errAnother
	}
	if missed := o.At - v.next; missed > 0 {
		v.warn("%d bytes of the guest are missing here, from %d to %d", missed, v.next, o.At)
	}
	v.next = o.At + int64(len(o.Data))
	if len(o.Data) > 0 {
		v.silent()
		_, v.writing = v.out.Write(o.Data)
	}
	return v.writing
}

package guestcli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/xenchan/xenchan/agent/rfbclip"
	"github.com/xenchan/xenchan/guest"
)

// clipboardLimit is how long a command has to give or take a text.
const clipboardLimit = 10 * time.Second

func (a *app) clipboardCommand() command {
	flags := a.newFlags()
	limit := timeoutFlag(flags)
	get := flags.String("get", "xclip -selection clipboard -o", "`COMMAND` that prints what is in the clipboard")
	set := flags.String("set", "xclip -selection clipboard -i", "`COMMAND` that puts its standard input there")
	watch := flags.Duration("watch", 0, "look each `TIME` whether the host is to have a new text")
	return command{
		use: "clipboard [NAME] [flags]", short: "Share the clipboard with the host", flags: flags, most: 1,
		long: `Clipboard shares the clipboard of the session that it runs in with the host, by Xen's own
protocol, over the channel ` + rfbclip.Channel + `. Each program that begins
there on the host gets what is in the clipboard; what it gives comes into the clipboard.
It runs until it is ended. The text has to be ISO 8859-1, as the protocol has no other.`,
		example: `  xenchan-guest clipboard &
  xenchan-guest clipboard --get wl-paste --set wl-copy
  xenchan-guest clipboard --watch 1s`,
		run: func(ctx context.Context, args []string) error {
			name := append(args, rfbclip.Channel)[0]
			if _, err := a.wait(ctx, name, *limit); err != nil {
				return err
			}
			conn, err := guest.Open(ctx, a.dir, name)
			if err != nil {
				return err
			}
			defer conn.Close()
			c := &clipboard{app: a, get: strings.Fields(*get), set: strings.Fields(*set)}
			return c.share(ctx, conn, *watch)
		},
	}
}

// clipboard is a session's, by two commands.
type clipboard struct {
	*app
	get, set []string
	last     string // what both sides have
}

// heard is what the host does.
type heard struct {
	text    string
	greeted bool
	err     error
}

func (c *clipboard) share(ctx context.Context, conn io.ReadWriter, watch time.Duration) error {
	client := rfbclip.NewClient(conn)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	host := make(chan heard)
	go func() {
		for {
			var h heard
			h.text, h.greeted, h.err = client.Next()
			select {
			case host <- h:
			case <-ctx.Done():
				return
			}
			if h.err != nil {
				return
			}
		}
	}()
	for {
		var tick <-chan time.Time
		if watch > 0 {
			tick = time.After(watch)
		}
		var err error
		select {
		case h := <-host:
			switch {
			case errors.Is(h.err, context.Canceled):
				return nil
			case h.err != nil:
				return h.err
			case h.greeted:
				err = c.give(ctx, client, true)
			default:
				err = c.take(ctx, h.text)
			}
		case <-tick:
			err = c.give(ctx, client, false)
		case <-ctx.Done():
			return nil
		}
		if err != nil && ctx.Err() == nil {
			c.warn("%v", err)
		}
	}
}

// give sends the host what is in the clipboard, when it is new or asked for.
func (c *clipboard) give(ctx context.Context, client *rfbclip.Client, asked bool) error {
	text, err := c.command(ctx, c.get, "")
	if err != nil {
		if asked {
			return err
		}
		return nil // an empty clipboard is an error to xclip
	}
	if !asked && text == c.last {
		return nil
	}
	c.last = text
	return client.Send(text)
}

func (c *clipboard) take(ctx context.Context, text string) error {
	c.last = text
	_, err := c.command(ctx, c.set, text)
	return err
}

// command runs one of the commands. It does not wait for what that leaves behind, as
// xclip does to answer those who paste.
func (c *clipboard) command(ctx context.Context, words []string, in string) (string, error) {
	if len(words) == 0 {
		return "", errors.New("an empty command for the clipboard: see --get and --set")
	}
	ctx, cancel := context.WithTimeout(ctx, clipboardLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdin = strings.NewReader(in)
	cmd.WaitDelay = time.Second
	out := &bounded{limit: rfbclip.MaxText * 2}
	if in == "" {
		cmd.Stdout = out
	}
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return "", fmt.Errorf("%s: %w", words[0], err)
	}
	return out.String(), nil
}

// bounded refuses to become larger.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		return 0, rfbclip.ErrTooLong
	}
	return b.Buffer.Write(p)
}

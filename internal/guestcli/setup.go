package guestcli

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"

	"github.com/xenchan/xenchan/guest"
	"github.com/xenchan/xenchan/xenstore"
)

// xenbus is how a guest reaches xenstore; its driver is a module in some kernels.
const xenbus = "/dev/xen/xenbus"

func (a *app) setupCommand() command {
	flags := a.newFlags()
	hold := flags.Bool("hold", false, "go on, and keep the terminals open")
	store := flags.String("store", xenbus, "`PATH` of the xenbus device or of xenstored's socket")
	verbose := flags.BoolP("verbose", "v", false, "say more on stderr")
	return command{
		use: "setup [flags]", short: "Make the links to the channels' terminals", flags: flags,
		long: `Setup finds out which terminal is which channel and makes the links below ` + guest.Dir + `, also
known as /dev/xen-channels and /dev/xenchannel. With --hold it goes on for as long as it
runs: links follow what is plugged and unplugged, each terminal is raw and does not echo
before anybody opens it, and the host learns whether a program has it open. Without, it
does nothing when another holds already.`,
		example: `  xenchan-guest setup --hold      what the unit xenchan-guest.service runs
  xenchan-guest setup             once, as from mdev`,
		run: func(ctx context.Context, _ []string) error {
			level := slog.LevelWarn
			if *verbose {
				level = slog.LevelDebug
			}
			s, err := xenstore.Open(ctx, *store)
			if err != nil {
				return err
			}
			defer s.Close()
			c := guest.Config{Store: s, Dir: a.dir, Log: slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))}
			if *hold {
				return guest.Hold(ctx, c, ready)
			}
			if err := guest.Setup(ctx, c); !errors.Is(err, guest.ErrHeld) {
				return err
			}
			return nil
		},
	}
}

// ready tells systemd, where it is a unit (sd_notify(3)).
func ready() {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("READY=1"))
}

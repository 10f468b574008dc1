package guestcli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/xenchan/xenchan/agent/mdata"
	"github.com/xenchan/xenchan/guest"
	"github.com/xenchan/xenchan/internal/sys"
)

// seedDir is where cloud-init looks for a NoCloud seed.
const seedDir = "/var/lib/cloud/seed/nocloud"

// seed is the files of a NoCloud seed and the keys of each, the first that the host
// has. cloud-init takes a directory for a seed when the last two are in it, so they
// come last.
var seed = []struct {
	file   string
	keys   []string
	needed bool
}{
	{"network-config", []string{"network-config"}, false},
	{"vendor-data", []string{"sdc:vendor-data"}, false},
	{"user-data", []string{"cloud-init:user-data", "user-data"}, true},
	{"meta-data", []string{"meta-data"}, true},
}

// asking is what the commands that ask the host share.
type asking struct {
	*app
	channel string
	limit   time.Duration
}

func (a *app) asking(flags *pflag.FlagSet) *asking {
	q := &asking{app: a}
	flags.StringVar(&q.channel, "channel", mdata.Channel, "`NAME` of the channel")
	flags.DurationVar(&q.limit, "timeout", 0, "`TIME` to wait for the channel and the host, such as 30s; 0\nis for ever")
	return q
}

// with runs f with a client of the host.
func (q *asking) with(ctx context.Context, f func(context.Context, *mdata.Client) error) error {
	begun := time.Now()
	if _, err := q.wait(ctx, q.channel, q.limit); err != nil {
		return err
	}
	soon, cancel := ctx, context.CancelFunc(func() {})
	if q.limit > 0 {
		soon, cancel = context.WithDeadline(ctx, begun.Add(q.limit))
	}
	defer cancel()
	hint := time.AfterFunc(hintAfter, func() {
		q.warn("waiting for the host to answer on %s (`xenchan config serve`)", q.channel)
	})
	defer hint.Stop()
	conn, err := guest.Open(soon, q.dir, q.channel)
	if err == nil {
		defer conn.Close()
		client := mdata.NewClient(conn)
		defer client.Close()
		err = f(soon, client)
	}
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case errors.Is(err, context.DeadlineExceeded):
		return timeoutError{fmt.Errorf("the host does not answer on %s after %v: `xenchan config serve` has to run there", q.channel, q.limit)}
	}
	return err
}

func (a *app) configFetchCommand() command {
	flags := a.newFlags()
	q := a.asking(flags)
	to := flags.String("to", seedDir, "`DIR` of the seed")
	return command{
		use: "config fetch [flags]", short: "Get a seed for cloud-init from the host", flags: flags,
		long: `Config fetch asks the host for meta-data, user-data, vendor-data and network-config and
makes a NoCloud seed of them, for guests in which cloud-init cannot tell where it runs. Root
alone can read the files, and each is there as a whole or not at all. It does nothing when
they are there already. What the host does not have is removed.`,
		example: `  xenchan-guest config fetch --timeout 1m
  xenchan-guest config fetch --to /run/seed`,
		run: func(ctx context.Context, _ []string) error {
			files := make(map[string][]byte)
			err := q.with(ctx, func(ctx context.Context, c *mdata.Client) error { return fetch(ctx, c, files) })
			if err != nil {
				return err
			}
			return plant(*to, files)
		},
	}
}

// fetch gets the files of the seed.
func fetch(ctx context.Context, c *mdata.Client, files map[string][]byte) error {
	for _, s := range seed {
		for _, key := range s.keys {
			value, found, err := c.Get(ctx, key)
			if err != nil {
				return err
			}
			if found {
				files[s.file] = value
				break
			}
		}
	}
	if files["meta-data"] == nil {
		return errors.New("the host has no meta-data: is what answers `xenchan config serve`?")
	}
	return nil
}

// plant writes the seed. One that broke off is gone on with by the next.
func plant(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, s := range seed {
		path := filepath.Join(dir, s.file)
		want, have := files[s.file]
		if !have && !s.needed {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		if info, err := os.Lstat(path); err == nil && info.Mode() == 0o600 {
			if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, want) {
				continue
			}
		}
		if err := sys.ReplaceFile(path, want); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) configGetCommand() command {
	flags := a.newFlags()
	q := a.asking(flags)
	return command{
		use: "config get KEY [flags]", short: "Get one value from the host", flags: flags, least: 1, most: 1,
		long: `Config get prints a value of the host's, as it is. A secret is given once: the next time
there is no such value.`,
		example: `  xenchan-guest config get hostname
  (umask 077; xenchan-guest config get db-password >/run/db-password)`,
		run: func(ctx context.Context, args []string) error {
			if err := mdata.CheckKey(args[0]); err != nil {
				return usageError{err}
			}
			var value []byte
			err := q.with(ctx, func(ctx context.Context, c *mdata.Client) (err error) {
				var found bool
				value, found, err = c.Get(ctx, args[0])
				if err == nil && !found {
					err = fmt.Errorf("the host has no %s", args[0])
				}
				return err
			})
			if err == nil {
				_, err = a.stdout.Write(value)
			}
			return err
		},
	}
}

func (a *app) configDoneCommand() command {
	flags := a.newFlags()
	q := a.asking(flags)
	failed := flags.String("failed", "", "`REASON` why it is not configured")
	return command{
		use: "config done [flags]", short: "Tell the host that this guest is configured", flags: flags,
		long: `Config done tells the host that this guest is configured, or with --failed why it is not.
"xenchan config serve" and "xenchan wait --for configured" end then.`,
		example: `  xenchan-guest config done
  xenchan-guest config done --failed "no disk for /srv"`,
		run: func(ctx context.Context, _ []string) error {
			word := "ok"
			if flags.Changed("failed") {
				word = "failed: " + *failed
			}
			return q.with(ctx, func(ctx context.Context, c *mdata.Client) error {
				return c.Put(ctx, mdata.ReadyKey, []byte(word))
			})
		},
	}
}

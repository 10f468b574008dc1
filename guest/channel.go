// Package guest finds, awaits and opens channels inside a guest, by name.
//
// A channel is a terminal there, /dev/hvcN, and the kernel says nowhere which
// one: there is no link in sysfs, and the number moves when channels are unplugged
// or the guest is restored. A [Holder] finds out, makes the links
// /dev/xen-channel/NAME, and keeps each terminal open in raw mode, so that nothing
// is echoed to the host, whoever opens it next. `xenchan-guest setup --hold` is
// one. All else here works on the links alone.
package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Dir is where the links are. Aliases stand beside it and mean the same: the
// names of the feature's first description, and of SUSE.
const Dir = "/dev/xen-channel"

var aliases = []string{"xen-channels", "xenchannel"}

// lookPause is the time between two looks for a link: inotify does not see a
// directory that is not there yet, and nobody waits for a channel often.
const lookPause = 100 * time.Millisecond

// Channel is a link.
type Channel struct {
	Name string `json:"name"`
	// TTY is the terminal that the link leads to, such as /dev/hvc1.
	TTY string `json:"tty"`
}

// List is the channels whose links are in dir, by name, as ReadDir sorts. No directory is
// no channels.
func List(dir string) ([]Channel, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []Channel
	for _, e := range entries {
		tty, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
		if err == nil && e.Name()[0] != '.' {
			all = append(all, Channel{Name: e.Name(), TTY: tty})
		}
	}
	return all, nil
}

// Wait waits until the channel is there, and returns the path to open.
func Wait(ctx context.Context, dir, name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	for {
		_, err := os.Stat(path)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return path, err
		}
		select {
		case <-time.After(lookPause):
		case <-ctx.Done():
			return "", fmt.Errorf("no channel %s: %w", name, ctx.Err())
		}
	}
}

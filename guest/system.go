package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/xenchan/xenchan/xenstore"
)

// driverDir has a link for each console that hvc_xen serves.
const driverDir = "/sys/bus/xen/drivers/xenconsole"

// devices is where the guest's consoles are in xenstore, seen from its home.
const devices = "device/console"

// Device states, io/xenbus.h.
const (
	initialising = "1"
	initWait     = "2"
	initialised  = "3"
	connected    = "4"
	closing      = "5"
	closed       = "6"
)

// nodeOf is where a device is in xenstore.
func nodeOf(id string) string { return devices + "/" + strings.TrimPrefix(id, "console-") }

// maxNameLen is the longest name of a file.
const maxNameLen = 255

// CheckName says what is wrong with a channel's name, which is a file name here.
// The host has given it; this guest need not believe that it is sound.
func CheckName(name string) error {
	switch {
	case name == "" || len(name) > maxNameLen || name[0] == '.':
		return fmt.Errorf("%q cannot be the name of a channel", name)
	case strings.Contains(name, "/"):
		return fmt.Errorf("%q cannot be the name of a channel: it contains '/'", name)
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("%q cannot be the name of a channel: it contains a character that cannot be printed", name)
	}
	return nil
}

// scan is the consoles that the driver has taken, and the domain's number, which
// is another after the guest was restored. known are those that had a terminal before.
func scan(ctx context.Context, store *xenstore.Store, sysfs string, known map[irq]key) (all []console, domid string, err error) {
	if domid, err = store.Read(ctx, "domid"); err != nil {
		return nil, "", err
	}
	entries, err := os.ReadDir(sysfs)
	if err != nil {
		return nil, "", fmt.Errorf("%w: is this a Xen guest, with the driver hvc_xen?", err)
	}
	for _, e := range entries {
		c, ok, err := look(ctx, store, sysfs, e.Name(), known)
		if err != nil {
			return nil, "", err
		}
		if ok {
			all = append(all, c)
		}
	}
	return all, domid, nil
}

// look is a console, if a directory entry is one's.
func look(ctx context.Context, store *xenstore.Store, sysfs, id string, known map[irq]key) (c console, ok bool, err error) {
	if !strings.HasPrefix(id, "console-") {
		return c, false, nil
	}
	c = console{id: id}
	link := filepath.Join(sysfs, id)
	if c.bind, err = inode(os.Lstat(link)); err == nil {
		c.dev, err = inode(os.Stat(link))
	}
	if err != nil {
		return c, false, ignoreAbsent(err)
	}
	node := nodeOf(id)
	state, err := store.Read(ctx, node+"/state")
	if err = ignoreAbsent(err); err != nil {
		return c, false, err
	}
	// Before Initialised there may be no terminal yet, and behind Connected none any
	// more. The kernel never goes back: the toolstack has made these nodes anew.
	had := false
	for _, k := range known {
		had = had || k == c.key()
	}
	switch {
	case state == initialised || state == connected:
	case had && (state == "" || state == initialising):
		c.life = dead
		return c, true, nil
	default:
		c.life = unsure
		return c, true, nil
	}
	// A console without a name is no channel, but has a terminal.
	c.name, err = store.Read(ctx, node+"/name")
	return c, true, ignoreAbsent(err)
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func inode(info fs.FileInfo, err error) (uint64, error) {
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Ino, nil
}

// firstTTY is the lowest terminal for channels: 0 is the primary console's, where
// there is one.
func firstTTY(ctx context.Context, store *xenstore.Store) (int, error) {
	primary, err := store.Exists(ctx, "console/port")
	if err != nil || !primary {
		return 0, err
	}
	return 1, nil
}

// openers is which of the terminals another process has open.
func openers(paths map[string]bool) map[string]bool {
	found := make(map[string]bool)
	self := strconv.Itoa(os.Getpid())
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is good
	for _, fd := range fds {
		if strings.HasPrefix(fd, "/proc/"+self+"/") {
			continue
		}
		if path, err := os.Readlink(fd); err == nil && paths[path] {
			found[path] = true
		}
	}
	return found
}

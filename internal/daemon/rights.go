package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sys"
)

var errNoPlace = errors.New("it has no place on this host yet")

// mayConnect says why somebody could not be a client of this channel, as the kernel
// and "allow" would.
func (d *device) mayConnect(who peer) error {
	d.mu.Lock()
	ep := d.endpoint
	d.mu.Unlock()
	if ep == nil {
		return errNoPlace
	}
	allow, err := parseAllow(d.spec.Allow)
	if err != nil {
		return err
	}
	if !allow.has(who) {
		return fmt.Errorf("user %d is not in allow=%s of %s", who.UID, d.spec.Allow, d.spec.Name)
	}
	need := fs.FileMode(0o2) // connect(2) wants to write
	if d.spec.Connection == channel.PTY {
		need = 0o6
	}
	return mayUse(who, ep.Path(), need)
}

// mayUse says why somebody may not use a file: need is what they want of it, as the
// bits of a mode for others.
func mayUse(who peer, path string, need fs.FileMode) error {
	if who.UID == 0 {
		return nil
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return err
	}
	at := filepath.Join(parent, filepath.Base(path))
	for ; ; at, need = filepath.Dir(at), 0o1 { // and search all directories on the way
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		bits, err := bitsFor(who, at, info)
		if err != nil {
			return err
		}
		if bits&need != need {
			return fmt.Errorf("%s: user %d: %w", at, who.UID, fs.ErrPermission)
		}
		if at == "/" {
			return nil
		}
	}
}

// bitsFor is what somebody may do with a file, as the bits of a mode for others. Where
// there is an access control list, only the owner's are sure.
func bitsFor(who peer, path string, info fs.FileInfo) (fs.FileMode, error) {
	st := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	if st.Uid == who.UID {
		return mode >> 6, nil
	}
	listed, err := sys.HasACL(path)
	switch {
	case err != nil || listed:
		return 0, err
	case st.Gid == who.GID || slices.Contains(who.Groups, st.Gid):
		return mode >> 3 & 0o7, nil
	}
	return mode & 0o7, nil
}

package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/endpoint/pty"
	"github.com/xenchan/xenchan/endpoint/unixsock"
)

// openEndpoint makes the channel's place on the host.
func (d *device) openEndpoint() (endpoint.Endpoint, error) {
	uid, uidErr := ownerID(d.spec.Owner)
	gid, gidErr := groupID(d.spec.Group)
	allow, err := parseAllow(d.spec.Allow)
	if err := cmp.Or(uidErr, gidErr, err); err != nil {
		return nil, err
	}
	if d.spec.Connection == channel.PTY {
		return asEndpoint(pty.Open(pty.Config{Mode: d.spec.Mode, UID: uid, GID: gid}))
	}
	mode := d.spec.Mode
	if mode == 0 && d.spec.Allow != "" {
		mode = openToAll
	}
	return asEndpoint(unixsock.Listen(unixsock.Config{
		Path: d.spec.Path, Mode: mode, UID: uid, GID: gid, Admit: d.admit(allow), RunDir: d.daemon.RunDir,
	}))
}

// explainRights says what to do about an owner or a group that a daemon without
// root's rights cannot give.
func (d *device) explainRights(err error) error {
	if !errors.Is(err, syscall.EPERM) || os.Geteuid() == 0 || d.spec.Owner+d.spec.Group == "" {
		return err
	}
	return fmt.Errorf("%w: the daemon is not root but user %d; it can give a socket to groups that it is in itself, and to no other user (owner %q, group %q): "+
		"say who may connect with allow=USER:@GROUP instead, or make the daemon a member of the group", err, os.Geteuid(), d.spec.Owner, d.spec.Group)
}

// closeEndpoint removes the channel's place, and the domain's directory in the
// run directory with the last of its sockets.
func (d *device) closeEndpoint(ep endpoint.Endpoint) {
	ep.Close()
	if dir := filepath.Dir(d.spec.Path); filepath.Dir(dir) == d.daemon.RunDir {
		os.Remove(dir) // fails while there is something in it
	}
}

// asEndpoint keeps a nil pointer from becoming an endpoint that is not nil.
func asEndpoint[E endpoint.Endpoint](e E, err error) (endpoint.Endpoint, error) {
	if err != nil {
		return nil, err
	}
	return e, nil
}

// ownerID is a user's number; nil when none is named.
func ownerID(name string) (*int, error) {
	if name == "" {
		return nil, nil
	}
	if id, ok := number(name); ok {
		return &id, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("owner: %w", err)
	}
	id, err := strconv.Atoi(u.Uid)
	return &id, err
}

// groupID is a group's number; nil when none is named.
func groupID(name string) (*int, error) {
	if name == "" {
		return nil, nil
	}
	if id, ok := number(name); ok {
		return &id, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return nil, fmt.Errorf("group: %w", err)
	}
	id, err := strconv.Atoi(g.Gid)
	return &id, err
}

// number is an account's number; the last one means "none" to the kernel.
func number(s string) (int, bool) {
	id, err := strconv.ParseUint(s, 10, 32)
	return int(id), err == nil && id < 1<<32-1
}

package daemon

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/endpoint/pty"
	"github.com/xenchan/xenchan/endpoint/unixsock"
)

// openEndpoint makes the channel's place on the host.
func (d *device) openEndpoint() (endpoint.Endpoint, error) {
	uid, err := ownerID(d.spec.Owner)
	if err != nil {
		return nil, err
	}
	gid, err := groupID(d.spec.Group)
	if err != nil {
		return nil, err
	}
	if d.spec.Connection == channel.PTY {
		return asEndpoint(pty.Open(pty.Config{Mode: d.spec.Mode, UID: uid, GID: gid}))
	}
	return asEndpoint(unixsock.Listen(unixsock.Config{
		Path: d.spec.Path, Mode: d.spec.Mode, UID: uid, GID: gid, RunDir: d.daemon.RunDir,
	}))
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
	if id, err := strconv.Atoi(name); err == nil {
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
	if id, err := strconv.Atoi(name); err == nil {
		return &id, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return nil, fmt.Errorf("group: %w", err)
	}
	id, err := strconv.Atoi(g.Gid)
	return &id, err
}

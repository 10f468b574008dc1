package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/endpoint/pty"
	"github.com/xenchan/xenchan/endpoint/unixsock"
	"github.com/xenchan/xenchan/internal/sys"
)

// setEndpoint shows where clients connect, or why they cannot.
func (d *device) setEndpoint(ep endpoint.Endpoint, err error) {
	d.mu.Lock()
	d.endpoint, d.problem = ep, ""
	if err != nil {
		d.problem = err.Error()
	}
	d.mu.Unlock()
	if err != nil || ep != nil && d.spec.Connection == channel.Socket {
		d.opened() // a terminal when its path is published
	}
	d.settleBoth(&d.placed)
}

// openEndpoint makes the channel's place on the host, or goes on with the one that
// an earlier daemon has left.
func (d *device) openEndpoint() (endpoint.Endpoint, error) {
	uid, uidErr := ownerID(d.spec.Owner)
	gid, gidErr := groupID(d.spec.Group)
	allow, err := parseAllow(d.spec.Allow)
	if err := cmp.Or(uidErr, gidErr, err); err != nil {
		return nil, err
	}
	if d.spec.Connection == channel.PTY {
		return d.openTerminal(pty.Config{Mode: d.spec.Mode, UID: uid, GID: gid})
	}
	if err := d.daemon.checkPlace(d.spec.Path); err != nil {
		return nil, err
	}
	mode := d.spec.Mode
	if mode == 0 && d.spec.Allow != "" {
		mode = openToAll
	}
	return d.openSocket(unixsock.Config{
		Path: d.spec.Path, Mode: mode, UID: uid, GID: gid, Admit: d.admit(allow), RunDir: d.daemon.RunDir,
	})
}

func (d *device) openTerminal(cfg pty.Config) (endpoint.Endpoint, error) {
	if h := d.keep.take(keptTerminal); h != nil {
		e, err := pty.Adopt(cfg, h)
		if err == nil {
			return e, nil
		}
		d.keep.drop(keptTerminal)
		d.log.Warn("the terminal of an earlier daemon is lost", "error", err)
	}
	e, err := pty.Open(cfg)
	if err != nil {
		return nil, err
	}
	h, err := e.Handle()
	d.keep.putOne(keptTerminal, h, err)
	return e, nil
}

func (d *device) openSocket(cfg unixsock.Config) (endpoint.Endpoint, error) {
	for _, what := range d.keep.all() {
		var id sys.FileID
		if n, _ := fmt.Sscanf(what, keptSocket+"%d.%d", &id.Dev, &id.Ino); n != 2 {
			continue
		}
		if h := d.keep.take(what); h != nil {
			e, err := unixsock.Adopt(cfg, h, id)
			if err == nil {
				return e, nil
			}
			d.log.Warn("the socket of an earlier daemon is lost", "error", err)
		}
		d.keep.drop(what)
	}
	e, err := unixsock.Listen(cfg)
	if err != nil {
		return nil, err
	}
	h, err := e.Handle()
	d.keep.putOne(fmt.Sprintf(keptSocket+"%d.%d", e.ID().Dev, e.ID().Ino), h, err)
	return e, nil
}

// checkPlace says why there may be no socket at path. It does not depend on whether
// the kernel would have refused it too.
func (d *Daemon) checkPlace(path string) error {
	if d.SocketDirs == nil {
		return nil
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return nil // whoever makes the socket says it better
	}
	for _, dir := range append([]string{d.RunDir}, d.SocketDirs...) {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			continue
		}
		if rel, err := filepath.Rel(real, parent); err == nil && filepath.IsLocal(rel) {
			return nil
		}
	}
	return fmt.Errorf("path %s: %s is below none of the directories in which this daemon makes sockets (%s): leave path out, or add a directory to socket_dirs in the section [sandbox] of the daemon's configuration and restart it",
		path, parent, strings.Join(d.SocketDirs, ", "))
}

// explainRights says what to do where a daemon without root's rights cannot give a
// socket away, or make one.
func (d *device) explainRights(err error) error {
	path, _ := errors.AsType[*fs.PathError](err)
	switch {
	case errors.Is(err, syscall.EPERM) && path != nil && strings.HasSuffix(path.Op, "chown"):
		return fmt.Errorf("%w: the daemon, user %d, may give a socket to groups that it is in itself, and to no other user (owner %q, group %q): "+
			"say who may connect with allow=USER:@GROUP instead, or make the daemon a member of the group", err, os.Geteuid(), d.spec.Owner, d.spec.Group)
	case errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: the daemon, user %d, may not make a socket there: leave path out, or let its user and its unit write to the directory (docs/install.md, sockets in other places)", err, os.Geteuid())
	}
	return err
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

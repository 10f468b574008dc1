package unixsock

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
)

// MaxPath is the longest path of a socket in bytes: struct sockaddr_un
// (linux/un.h) has room for 108 with the final zero.
const MaxPath = 107

// Config says where to listen and for whom.
type Config struct {
	// Path is absolute and at most [MaxPath] bytes long.
	Path string
	// Mode holds the socket's permission bits; zero means 0600. Whoever may
	// write may connect.
	Mode fs.FileMode
	// UID and GID, unless nil, become the socket's owner and group.
	UID, GID *int
	// Admit, unless nil, is asked about each client as it is accepted. One that
	// it turns down is closed, and nothing was read from it or written to it.
	Admit func(Peer) bool
	// RunDir, unless empty, is a directory below which missing directories on
	// the way to Path are made, RunDir included. Elsewhere, and with a Path
	// that is not below RunDir, the directory must exist.
	RunDir string
	// DirMode holds the permission bits of directories that are made; zero
	// means 0755.
	DirMode fs.FileMode
}

// Listen makes the socket and begins to listen.
//
// The socket is bound, given its owner and mode, and made to listen in a fresh
// directory that only this user can enter, and moved to Path as the last step.
// So whoever finds something at Path finds a socket that accepts and has the
// right owner and mode, at every moment; and as the last step is one rename
// that does not overwrite, of several who try to listen on one path exactly one
// succeeds. Setting the umask instead would change it for the whole process;
// chmod after bind leaves a moment; fchmod before bind avoids that one, but the
// socket would be at Path before it listens, and look abandoned.
//
// A socket at Path that nobody listens on any more is replaced. One on which
// somebody does fails with EADDRINUSE, anything else at Path with EEXIST; both
// are left untouched. No symbolic link that belongs to another user is followed,
// and no directory is used, outside RunDir, in which another user than root, this
// process's and the socket's could put another socket in place of ours.
func Listen(cfg Config) (*Endpoint, error) {
	e, err := listen(cfg)
	if err != nil {
		return nil, fmt.Errorf("unixsock: listen on %q: %w", cfg.Path, err)
	}
	return e, nil
}

func listen(cfg Config) (*Endpoint, error) {
	if err := checkPath(cfg.Path); err != nil {
		return nil, err
	}
	parent, name := filepath.Split(cfg.Path)
	if name == "" || name == "." || name == ".." {
		return nil, fmt.Errorf("the path names a directory: %w", syscall.EINVAL)
	}
	dir, err := openParent(parent, cfg)
	if err != nil {
		return nil, err
	}
	defer dir.Close()

	temp := ".xenchan-" + rand.Text()
	if err := dir.Mkdir(temp, 0o700); err != nil {
		return nil, err
	}
	defer dir.Rmdir(temp)
	private, err := openPrivate(dir, temp)
	if err != nil {
		return nil, err
	}
	defer private.Close()
	return listenIn(private, dir, name, cfg)
}

func checkPath(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return fmt.Errorf("the path must begin with /: %w", syscall.EINVAL)
	case len(path) > MaxPath:
		return fmt.Errorf("the path has %d bytes, a socket's may have %d; choose a shorter one: %w",
			len(path), MaxPath, syscall.ENAMETOOLONG)
	case strings.ContainsRune(path, 0):
		return fmt.Errorf("the path contains a zero byte: %w", syscall.EINVAL)
	}
	return nil
}

// openParent opens the directory of the socket, and makes it if it may.
func openParent(parent string, cfg Config) (*sys.Dir, error) {
	base := filepath.Clean(cfg.RunDir)
	below, ok := strings.CutPrefix(filepath.Clean(parent)+"/", base+"/")
	if cfg.RunDir == "" || !ok {
		owner := -1
		if cfg.UID != nil {
			owner = *cfg.UID
		}
		dir, err := sys.OpenTrustedDir(parent, owner)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w; make the directory first", err)
		}
		return dir, err
	}
	perm := uint32(cfg.DirMode.Perm())
	if perm == 0 {
		perm = 0o755
	}
	dir, err := sys.OpenDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		if dir, err = sys.OpenDir(filepath.Dir(base)); err == nil {
			dir, err = enter(dir, filepath.Base(base), perm)
		}
	}
	for name := range strings.SplitSeq(below, "/") {
		if err == nil && name != "" {
			dir, err = enter(dir, name, perm)
		}
	}
	return dir, err
}

// enter opens a directory in dir, makes it if it is missing, and closes dir.
func enter(dir *sys.Dir, name string, perm uint32) (*sys.Dir, error) {
	defer dir.Close()
	sub, err := dir.Sub(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return sub, err
	}
	if err := dir.Mkdir(name, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return dir.Sub(name)
}

// openPrivate opens the directory that we have just made, and not one that
// somebody who may write to dir has put in its place.
func openPrivate(dir *sys.Dir, name string) (*sys.Dir, error) {
	private, err := dir.Sub(name)
	if err != nil {
		return nil, err
	}
	info, err := private.Stat(".")
	if err == nil && (info.Perm&0o777 != 0o700 || int(info.UID) != os.Geteuid()) {
		err = fmt.Errorf("somebody replaced the directory %s: %w", name, syscall.EPERM)
	}
	if err != nil {
		_ = private.Close()
		return nil, err
	}
	return private, nil
}

// listenIn makes the socket in private and moves it to name in dir.
func listenIn(private, dir *sys.Dir, name string, cfg Config) (*Endpoint, error) {
	// The address stays as it was bound, in ss(8) too, so it ends like the path.
	bound := name
	if room := MaxPath - len(private.ProcPath("")); len(bound) > room {
		bound = bound[len(bound)-room:]
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: private.ProcPath(bound), Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false) // it would remove what has that name then
	e := &Endpoint{path: cfg.Path, ln: ln, admit: cfg.Admit}
	if err := e.publish(private, bound, dir, name, cfg); err != nil {
		_ = ln.Close()
		// Fails if what was moved out of the way could not be moved back; it
		// is better left where it is than removed.
		_ = private.Remove(bound)
		return nil, err
	}
	return e, nil
}

func (e *Endpoint) publish(private *sys.Dir, bound string, dir *sys.Dir, name string, cfg Config) error {
	uid, gid := -1, -1
	if cfg.UID != nil {
		uid = *cfg.UID
	}
	if cfg.GID != nil {
		gid = *cfg.GID
	}
	mode := uint32(cfg.Mode.Perm())
	if mode == 0 {
		mode = 0o600
	}
	if err := private.SetRights(bound, mode, uid, gid); err != nil {
		return err
	}
	info, err := private.Stat(bound)
	if err != nil {
		return err
	}
	e.id = info.ID
	for try := 1; ; try++ {
		err := private.MoveNew(bound, dir, name)
		if errors.Is(err, fs.ErrExist) {
			err = replace(private, bound, dir, name, cfg.Path)
		}
		// What was there has just gone by itself: its owner stopped.
		if !errors.Is(err, fs.ErrNotExist) || try == 3 {
			return err
		}
	}
}

// replace puts our socket at a name that is taken, if what is there may go. The
// lock keeps others of our kind from doing the same between look and exchange.
// Programs that know nothing of it might, so what the exchange gave us is
// looked at again.
func replace(private *sys.Dir, bound string, dir *sys.Dir, name, path string) error {
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := checkAbandoned(dir, name, path); err != nil {
		return err
	}
	if err := private.Exchange(bound, dir, name); err != nil {
		return fmt.Errorf("nobody listens on the socket that is there, but replacing it failed: %w", err)
	}
	if err := checkAbandoned(private, bound, private.ProcPath(bound)); err != nil {
		return errors.Join(err, private.Exchange(bound, dir, name))
	}
	return private.Remove(bound)
}

// lockDir waits only briefly for the lock: who may read the directory can take
// it too, and keep it.
func lockDir(dir *sys.Dir) (*os.File, error) {
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		lock, err := dir.TryLock()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return lock, err
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("another program has the directory locked; see lslocks(8): %w", err)
		}
	}
}

// checkAbandoned tells why a file may not be replaced; path is another way to it.
func checkAbandoned(dir *sys.Dir, name, path string) error {
	info, err := dir.Stat(name)
	if err != nil {
		return err
	}
	if info.Type != syscall.S_IFSOCK {
		return fmt.Errorf("there is %s; remove it or choose another path: %w", fileType(info.Type), syscall.EEXIST)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		_ = conn.Close()
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return err
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("there is a socket of user %d, and no right to see whether somebody listens: %w", info.UID, err)
	}
	// Also a full backlog (EAGAIN) and another type of socket (EPROTOTYPE).
	return fmt.Errorf("a program listens there already; stop it or choose another path: %w", syscall.EADDRINUSE)
}

func fileType(t uint32) string {
	switch t {
	case syscall.S_IFDIR:
		return "a directory"
	case syscall.S_IFLNK:
		return "a symbolic link"
	case syscall.S_IFREG:
		return "a regular file"
	}
	return "a file that is not a socket"
}

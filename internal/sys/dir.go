package sys

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is a directory held open, so that what is done in it does not depend on
// its path any more: nobody can put another directory or a symbolic link in the
// way. Names are single path components.
type Dir struct {
	fd   int
	path string
}

// FileInfo says which file a name stands for and what it is. A symbolic link
// stands for itself.
type FileInfo struct {
	ID   FileID
	Type uint32 // S_IFMT bits, e.g. syscall.S_IFSOCK
	Perm uint32 // permission bits with setuid, setgid and sticky
	UID  uint32
}

// FileID tells files apart for as long as they exist.
type FileID struct{ Dev, Ino uint64 }

// maxLinks is the number of symbolic links that the kernel follows in one path.
const maxLinks = 40

// OpenDir opens the directory at an absolute path. A symbolic link on the way
// is followed only if root or this process's user owns it: the rule of
// fs.protected_symlinks, for every directory. So no other user decides where
// the path leads.
func OpenDir(path string) (*Dir, error) {
	return walkDir(path, anyDir)
}

// OpenTrustedDir is OpenDir for a path that nobody but root, this process's user
// and the user owner, unless it is -1, can make lead elsewhere later: every
// directory on the way belongs to one of them, and is not writable for everybody.
// One that is may be sticky, which keeps people from what is not theirs, or below
// one that lets only its owner through.
func OpenTrustedDir(path string, owner int) (*Dir, error) {
	private := false
	return walkDir(path, func(name string, st *unix.Stat_t) error {
		if name == "/" || name == ".." {
			private = false
		}
		switch uid := int(st.Uid); {
		case uid != 0 && uid != os.Geteuid() && uid != owner:
			return fmt.Errorf("the directory %s belongs to user %d, who could put something else in place: choose a directory of root's or of user %d: %w",
				name, uid, os.Geteuid(), unix.EPERM)
		case st.Mode&0o002 != 0 && st.Mode&unix.S_ISVTX == 0 && !private:
			return fmt.Errorf("the directory %s can be written by everybody, who could put something else in place: chmod o-w, or choose another directory: %w",
				name, unix.EPERM)
		}
		private = private || st.Mode&0o011 == 0
		return nil
	})
}

// dirCheck says what is wrong with a directory on the way.
type dirCheck func(name string, st *unix.Stat_t) error

// anyDir has nothing against any directory.
func anyDir(string, *unix.Stat_t) error { return nil }

// walkDir opens the directory at path if check has nothing against any on the way.
func walkDir(path string, check dirCheck) (*Dir, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, &os.PathError{Op: "open", Path: path, Err: unix.EINVAL}
	}
	d, err := openRoot(check)
	if err != nil {
		return nil, err
	}
	rest := strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		next, target, err := d.step(name, check)
		if target != "" {
			if links++; links > maxLinks {
				err = unix.ELOOP
			}
			rest = append(strings.Split(target, "/"), rest...)
			if target[0] == '/' && err == nil {
				next, err = openRoot(check)
			}
		}
		if err != nil {
			_ = d.Close()
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		if next != nil {
			_ = d.Close()
			d = next
		}
	}
	d.path = path
	return d, nil
}

func openRoot(check dirCheck) (*Dir, error) {
	fd, err := openRetry("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/", Err: err}
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = check("/", &st)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &Dir{fd: fd, path: "/"}, nil
}

// step opens one component: the directory, or else the target of a symbolic link.
func (d *Dir) step(name string, check dirCheck) (next *Dir, target string, err error) {
	fd, err := retryIO(func() (int, error) {
		return unix.Openat(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, "", err
	}
	next = &Dir{fd: fd, path: d.path + "/" + name}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = next.Close()
		return nil, "", err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := check(name, &st); err != nil {
			_ = next.Close()
			return nil, "", err
		}
		return next, "", nil
	case unix.S_IFLNK:
		defer next.Close()
		if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			return nil, "", fmt.Errorf("%s is a symbolic link of user %d: %w", name, st.Uid, unix.ELOOP)
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", buf)
		if err == nil && n == 0 {
			err = unix.ENOENT
		}
		return nil, string(buf[:max(n, 0)]), err
	}
	_ = next.Close()
	return nil, "", unix.ENOTDIR
}

// Sub opens a directory in d and follows no symbolic link.
func (d *Dir) Sub(name string) (*Dir, error) {
	next, target, err := d.step(name, anyDir)
	if err == nil && target != "" {
		err = unix.ELOOP
	}
	return next, d.wrap("open", name, err)
}

// Mkdir makes a directory with exactly these permission bits, whatever the umask.
func (d *Dir) Mkdir(name string, perm uint32) error {
	if err := unix.Mkdirat(d.fd, name, perm); err != nil {
		return d.wrap("mkdir", name, err)
	}
	sub, err := d.Sub(name)
	if err != nil {
		return err
	}
	defer sub.Close()
	// An O_PATH descriptor cannot be given to fchmod.
	return d.wrap("chmod", name, unix.Chmod(sub.ProcPath("."), perm))
}

// Stat looks at a name in d.
func (d *Dir) Stat(name string) (FileInfo, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return FileInfo{}, d.wrap("stat", name, err)
	}
	return FileInfo{
		ID:   FileID{Dev: st.Dev, Ino: st.Ino},
		Type: st.Mode & unix.S_IFMT,
		Perm: st.Mode &^ unix.S_IFMT,
		UID:  st.Uid,
	}, nil
}

// SetRights sets owner and group, where they are not -1, and permission bits.
// It would follow a symbolic link, so d must be writable for this user alone.
func (d *Dir) SetRights(name string, perm uint32, uid, gid int) error {
	// First the owner: the kernel may clear bits when it changes.
	if err := unix.Fchownat(d.fd, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return d.wrap("chown", name, err)
	}
	return d.wrap("chmod", name, unix.Fchmodat(d.fd, name, perm, 0))
}

// MoveNew moves a file to another directory. It fails with EEXIST if the name
// is taken there.
func (d *Dir) MoveNew(name string, to *Dir, toName string) error {
	return to.wrap("rename to", toName, unix.Renameat2(d.fd, name, to.fd, toName, unix.RENAME_NOREPLACE))
}

// Exchange swaps two files in one step: no moment without a file at each name.
func (d *Dir) Exchange(name string, with *Dir, withName string) error {
	return with.wrap("exchange", withName, unix.Renameat2(d.fd, name, with.fd, withName, unix.RENAME_EXCHANGE))
}

// Remove removes a file that is not a directory.
func (d *Dir) Remove(name string) error {
	return d.wrap("remove", name, unix.Unlinkat(d.fd, name, 0))
}

// Rmdir removes an empty directory.
func (d *Dir) Rmdir(name string) error {
	return d.wrap("rmdir", name, unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR))
}

// TryLock takes an advisory lock (flock(2)) on the directory until the file that
// it returns is closed. It fails with EWOULDBLOCK while another one has it.
func (d *Dir) TryLock() (*os.File, error) {
	fd, err := openRetry(d.ProcPath("."), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, d.wrap("open", ".", err)
	}
	f := os.NewFile(uintptr(fd), d.path)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, d.wrap("flock", ".", err)
	}
	return f, nil
}

// ProcPath is a path to a name in d for calls that take nothing else, and short
// where a socket's address has little room. It needs /proc and is valid until Close.
func (d *Dir) ProcPath(name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.fd, name)
}

// Close lets the directory go.
func (d *Dir) Close() error { return os.NewSyscallError("close", unix.Close(d.fd)) }

// HasACL says whether a file's access control list has more than its mode says
// (acl(5)). It follows no symbolic link.
func HasACL(path string) (bool, error) {
	_, err := retryIO(func() (int, error) { return unix.Lgetxattr(path, "system.posix_acl_access", nil) })
	switch err {
	case nil:
		return true, nil
	case unix.ENODATA, unix.EOPNOTSUPP:
		return false, nil
	}
	return false, &os.PathError{Op: "getxattr", Path: path, Err: err}
}

func (d *Dir) wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: d.path + "/" + name, Err: err}
}

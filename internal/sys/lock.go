package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// LockFile creates the file if needed and locks it for this process
// (flock(2)). The kernel drops the lock when the returned file is closed or the
// process ends, however it ends. A lock that another process holds is
// EWOULDBLOCK.
func LockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	var lockErr error
	err = raw.Control(func(fd uintptr) {
		lockErr = retry(func() error { return unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) })
	})
	if err == nil && lockErr != nil {
		err = &os.PathError{Op: "flock", Path: path, Err: lockErr}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

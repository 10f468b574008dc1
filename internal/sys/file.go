package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenSized opens a file of exactly size bytes to keep data in that outlives the
// process, for this user alone. One that is missing, or has another size, is made
// anew, of zeros that take no space. Anything else at that name is refused: a
// symbolic link, a file with a second name, one that others may read.
func (d *Dir) OpenSized(name string, size int64) (h *Handle, fresh bool, err error) {
	fd, err := retryIO(func() (int, error) {
		return unix.Openat(d.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return nil, false, d.wrap("open", name, err)
	}
	h = NewHandle(fd)
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		if fresh = st.Size != size; fresh {
			err = resize(fd, &st, size)
		} else {
			err = private(&st)
		}
	}
	if err != nil {
		_ = h.Close()
		return nil, false, d.wrap("open", name, err)
	}
	return h, fresh, nil
}

func resize(fd int, st *unix.Stat_t, size int64) error {
	if err := private(st); err != nil {
		return err
	}
	for _, n := range []int64{0, size} {
		if err := retry(func() error { return unix.Ftruncate(fd, n) }); err != nil {
			return err
		}
	}
	return nil
}

// private says why a file is not one of ours alone.
func private(st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Nlink != 1 || st.Mode&0o077 != 0 {
		return fmt.Errorf("it is not a regular file with one name and for this user alone (mode %o, user %d, %d names): %w",
			st.Mode, st.Uid, st.Nlink, unix.EPERM)
	}
	return nil
}

// Allocate sees to it that a part of a file has its place on the disk or in
// memory (fallocate(2)): writing there through a mapping cannot fail then, which
// would end the process. A file system that does not know how is taken at its word.
func (h *Handle) Allocate(off, n int64) error {
	return h.fallocate(0, off, n)
}

// Space is how many bytes are free for this user in the directory's file system, and
// how many it has; both are 0 where it does not say.
func (d *Dir) Space() (free, all int64, err error) {
	var st unix.Statfs_t
	err = os.NewSyscallError("fstatfs", retry(func() error { return unix.Fstatfs(d.fd, &st) }))
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, err
}

// Punch gives back the place of a part of a file, which is zeros then.
func (h *Handle) Punch(off, n int64) error {
	return h.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (h *Handle) fallocate(mode uint32, off, n int64) error {
	return h.use(func(fd int) error {
		err := retry(func() error { return unix.Fallocate(fd, mode, off, n) })
		if err == unix.EOPNOTSUPP {
			return nil
		}
		return os.NewSyscallError("fallocate", err)
	})
}

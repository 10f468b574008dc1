package sys

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Inotify is one inotify instance. A user has few of them
// (fs.inotify.max_user_instances, 128 by default), so share one for all watches.
type Inotify struct {
	file *os.File
	rc   syscall.RawConn
}

// NewInotify makes an instance that watches nothing yet.
func NewInotify() (*Inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	rc, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &Inotify{file: f, rc: rc}, nil
}

// AddOpen reports each open of the file at path, whoever does it and by
// whichever name. The watch descriptor that it returns is positive and is not
// used again for another file.
func (in *Inotify) AddOpen(path string) (wd int32, err error) { return in.add(path, unix.IN_OPEN) }

// AddUse is AddOpen that reports each close too.
func (in *Inotify) AddUse(path string) (wd int32, err error) {
	return in.add(path, unix.IN_OPEN|unix.IN_CLOSE)
}

func (in *Inotify) add(path string, mask uint32) (wd int32, err error) {
	err = control(in.rc, func(fd int) error {
		n, err := unix.InotifyAddWatch(fd, path, mask)
		wd = int32(n)
		if err != nil {
			return &os.PathError{Op: "inotify_add_watch", Path: path, Err: err}
		}
		return nil
	})
	return wd, err
}

// Remove ends a watch. One that the kernel has ended already, because the file
// is gone, is no error.
func (in *Inotify) Remove(wd int32) error {
	return control(in.rc, func(fd int) error {
		if _, err := unix.InotifyRmWatch(fd, uint32(wd)); err != nil && err != unix.EINVAL {
			return os.NewSyscallError("inotify_rm_watch", err)
		}
		return nil
	})
}

// Overflow is the watch descriptor that [Inotify.Take] gives when events of any
// watch may have been lost.
const Overflow int32 = -1

// Wait blocks, without holding a thread, until there is something to take, and
// fails once the instance is closed.
func (in *Inotify) Wait() error {
	var err error
	cerr := in.rc.Read(func(fd uintptr) bool {
		var r Readiness
		r, err = pollFD(int(fd))
		return err != nil || r.In
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// Take returns, without blocking, the watch descriptors of the events that are
// queued, at most a buffer full of them; none when the queue is empty.
func (in *Inotify) Take() ([]int32, error) {
	var buf [4096]byte
	var n int
	err := control(in.rc, func(fd int) (err error) {
		n, err = unix.Read(fd, buf[:])
		return err
	})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("read inotify", err)
	}
	return inotifyWatches(buf[:n]), nil
}

// Conn gives access to the descriptor for [Epoll.AddInput].
func (in *Inotify) Conn() syscall.RawConn { return in.rc }

// Close ends every watch.
func (in *Inotify) Close() error { return in.file.Close() }

// inotifyWatches lists the watch descriptors of the events in b: a 16-byte
// header of wd, mask, cookie and length, then a name of that length
// (struct inotify_event in linux/inotify.h).
func inotifyWatches(b []byte) (wds []int32) {
	for len(b) >= unix.SizeofInotifyEvent {
		wds = append(wds, int32(binary.NativeEndian.Uint32(b)))
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		b = b[min(size, len(b)):]
	}
	return wds
}

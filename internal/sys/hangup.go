package sys

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Hangup waits for the hang-up of a terminal and for nothing else: what comes over it
// wakes nobody, as it would on Go's netpoller.
type Hangup struct {
	epoll *os.File
	rc    syscall.RawConn
}

// WatchHangup watches a descriptor, until Close or until it is closed everywhere.
func WatchHangup(of syscall.RawConn) (*Hangup, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	err = control(of, func(tty int) error { // EPOLLHUP and EPOLLERR need not be asked for
		return os.NewSyscallError("epoll_ctl", unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, tty, &unix.EpollEvent{Fd: int32(tty)}))
	})
	if err == nil {
		err = os.NewSyscallError("fcntl", unix.SetNonblock(fd, true)) // so it is on the netpoller itself
	}
	h := &Hangup{epoll: os.NewFile(uintptr(fd), "hang-up")}
	if err == nil {
		h.rc, err = h.epoll.SyscallConn()
	}
	if err != nil {
		_ = h.epoll.Close()
		return nil, err
	}
	return h, nil
}

// Wait blocks, without holding a thread, until the hang-up, or fails after Close.
func (h *Hangup) Wait() error {
	var events [1]unix.EpollEvent
	var err error
	cerr := h.rc.Read(func(fd uintptr) bool {
		var n int
		n, err = unix.EpollWait(int(fd), events[:], 0)
		if err == unix.EINTR {
			err = nil
		}
		return n > 0 || err != nil
	})
	if cerr != nil {
		return cerr
	}
	return os.NewSyscallError("epoll_wait", err)
}

// Close ends Wait.
func (h *Hangup) Close() error { return h.epoll.Close() }

// OpenUnpolled opens a terminal that is not to be on Go's netpoller: it is for ioctls
// and [WatchHangup], and reads and writes would hold a thread.
func OpenUnpolled(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

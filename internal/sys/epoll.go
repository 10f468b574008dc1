package sys

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Epoll waits for many descriptors in one goroutine and, since an epoll
// descriptor can itself be polled, in none of the process's threads.
type Epoll struct {
	file *os.File
	rc   syscall.RawConn
}

// NewEpoll makes an epoll instance that watches nothing yet.
func NewEpoll() (*Epoll, error) {
	f, rc, err := newEpoll()
	if err != nil {
		return nil, err
	}
	return &Epoll{file: f, rc: rc}, nil
}

// newEpoll makes an epoll instance that Go's poller watches.
func newEpoll() (*os.File, syscall.RawConn, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("epoll_create1", err)
	}
	// There is no flag for this; without it os.NewFile would not poll.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(fd), "epoll")
	rc, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, rc, nil
}

// AddInput reports id for as long as rc can be read.
func (e *Epoll) AddInput(rc syscall.RawConn, id int32) error {
	return e.add(rc, unix.EpollEvent{Events: unix.EPOLLIN, Fd: id})
}

// AddHangup reports id once each time rc begins to hang up (EPOLLHUP or
// EPOLLERR, edge-triggered). Traffic on rc does not wake the waiter.
func (e *Epoll) AddHangup(rc syscall.RawConn, id int32) error {
	return e.add(rc, unix.EpollEvent{Events: unix.EPOLLET, Fd: id})
}

// AddResting takes rc in and reports nothing of it until Arm.
func (e *Epoll) AddResting(rc syscall.RawConn, id int32) error {
	return e.add(rc, unix.EpollEvent{Events: unix.EPOLLONESHOT, Fd: id})
}

// Arm reports id once, when rc can be read or as soon as it can, and then rests again.
func (e *Epoll) Arm(rc syscall.RawConn, id int32) error {
	return e.ctl(rc, unix.EPOLL_CTL_MOD, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: id})
}

func (e *Epoll) add(rc syscall.RawConn, ev unix.EpollEvent) error {
	return e.ctl(rc, unix.EPOLL_CTL_ADD, &ev)
}

// Remove ends the watch on rc, which must still be open.
func (e *Epoll) Remove(rc syscall.RawConn) error {
	return e.ctl(rc, unix.EPOLL_CTL_DEL, nil)
}

func (e *Epoll) ctl(rc syscall.RawConn, op int, ev *unix.EpollEvent) error {
	return control(e.rc, func(epfd int) error {
		return control(rc, func(fd int) error {
			return os.NewSyscallError("epoll_ctl", unix.EpollCtl(epfd, op, fd, ev))
		})
	})
}

// Wait blocks until there is at least one event and fills ids; after Close it
// fails. One goroutine at a time.
func (e *Epoll) Wait(ids []int32) (n int, err error) {
	events := make([]unix.EpollEvent, len(ids))
	cerr := e.rc.Read(func(fd uintptr) bool {
		n, err = unix.EpollWait(int(fd), events, 0)
		return n > 0 || (err != nil && err != unix.EINTR)
	})
	if cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, os.NewSyscallError("epoll_wait", err)
	}
	for i := range n {
		ids[i] = events[i].Fd
	}
	return n, nil
}

// Close ends every watch and wakes Wait.
func (e *Epoll) Close() error { return e.file.Close() }

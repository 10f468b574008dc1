package sys

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls on the way of each byte. They never block, and Go's scheduler is not
// told of them: it would wake a thread to watch how long they take, which costs more
// than they do.

func ioctlNow(fd int, request uintptr, arg []byte) error {
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
	if errno != 0 {
		return errno
	}
	return nil
}

// writePorts is a write to the event channel device.
func writePorts(fd int, ports []uint32) error {
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(ports))), uintptr(4*len(ports)))
	if errno != 0 {
		return errno
	}
	return nil
}

// moveNow is read(2) or write(2) on a descriptor that is not blocking.
func moveNow(call uintptr, fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// spliceNow needs a pipe and another descriptor that are both not blocking.
func spliceNow(from, to, max int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(max), unix.SPLICE_F_NONBLOCK)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// pollNow is poll(2) of one descriptor that does not wait.
func pollNow(fd int, events int16) (got int16, err error) {
	poll, never := unix.PollFd{Fd: int32(fd), Events: events}, unix.Timespec{}
	if _, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&never)), 0, 0, 0); errno != 0 {
		return 0, errno
	}
	return poll.Revents, nil
}

// epollNow is epoll_wait(2) that does not wait.
func epollNow(fd int, events []unix.EpollEvent) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// pollHot waits for at most d, in nanoseconds, until a descriptor can be read, and holds
// on to the processor meanwhile. A signal ends it, so that Go's can have it all the same.
func pollHot(fd int, d uint64) (ready bool, err error) {
	exact(d)
	fds := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	ts := unix.NsecToTimespec(int64(d))
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), 1, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 && errno != unix.EINTR {
		return false, errno
	}
	return errno == 0 && n > 0, nil
}

// exact has this thread's waits end in time, if the next is a short one: a service
// manager may have set the timer slack of all threads to milliseconds, for the runtime's
// monitor (see CalmMonitor), and a thread has that of the one that started it.
func exact(d uint64) {
	if d < uint64(time.Millisecond) {
		_, _, _ = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_TIMERSLACK, 1, 0)
	}
}

package sys

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// noWait2 says that this kernel has no epoll_pwait2(2), which came with Linux 5.11.
var noWait2 atomic.Bool

// epollWait blocks for at most d. A signal ends it.
func epollWait(fd int, events []unix.EpollEvent, d time.Duration) (int, error) {
	if noWait2.Load() {
		n, err := unix.EpollWait(fd, events, int((d+time.Millisecond-1)/time.Millisecond))
		if err == unix.EINTR {
			return 0, nil
		}
		return n, err
	}
	exact(uint64(d))
	ts := unix.NsecToTimespec(int64(d))
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	case unix.ENOSYS:
		noWait2.Store(true)
		return epollWait(fd, events, d)
	}
	return 0, errno
}

// readPorts blocks until the event channel device has events.
func readPorts(fd int, ports []uint32) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(ports))), uintptr(4*len(ports)))
	if errno != 0 {
		return 0, errno
	}
	return int(n / 4), nil
}

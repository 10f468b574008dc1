package sys

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Readiness is what poll(2) says of a descriptor at one moment.
type Readiness struct {
	In     bool // bytes can be read
	Hangup bool // POLLHUP or POLLERR: the other end has gone in both directions
}

// PollNow asks for a descriptor's readiness without blocking. Once the
// descriptor is closed it fails.
func PollNow(rc syscall.RawConn) (r Readiness, err error) {
	err = control(rc, func(fd int) (err error) {
		r, err = pollFD(fd)
		return err
	})
	return r, err
}

// WaitHangup blocks, without holding a thread, until [Readiness.Hangup] is true
// of a descriptor on Go's netpoller, or fails once that is closed. It waits as
// a reader, so a Read at the same time would wait for it.
func WaitHangup(rc syscall.RawConn) error {
	var err error
	cerr := rc.Read(func(fd uintptr) bool {
		var r Readiness
		r, err = pollFD(int(fd))
		return err != nil || r.Hangup
	})
	if cerr != nil {
		return cerr
	}
	return err
}

func pollFD(fd int) (Readiness, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, 0); err == unix.EINTR {
			continue
		} else if err != nil {
			return Readiness{}, err
		}
		got := fds[0].Revents
		return Readiness{
			In:     got&unix.POLLIN != 0,
			Hangup: got&(unix.POLLHUP|unix.POLLERR) != 0,
		}, nil
	}
}

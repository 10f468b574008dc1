package sys

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Readiness is what poll(2) says of a descriptor at one moment.
type Readiness struct {
	In     bool // bytes can be read
	Hangup bool // POLLHUP or POLLERR: the other end has gone in both directions
	Error  bool // POLLERR: of a unix socket, the other end was closed with bytes unread, and no call has said so yet
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
	for {
		got, err := pollNow(fd, unix.POLLIN)
		if err == unix.EINTR {
			continue
		} else if err != nil {
			return Readiness{}, err
		}
		return Readiness{
			In:     got&unix.POLLIN != 0,
			Hangup: got&(unix.POLLHUP|unix.POLLERR) != 0,
			Error:  got&unix.POLLERR != 0,
		}, nil
	}
}

package sys

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pipe is a kernel pipe, both of its ends in one descriptor. The kernel knows
// exactly how many bytes are in it, and splice(2) takes bytes out of one
// descriptor and puts them into another in one system call, which no signal can
// end in between. So a process that is killed while it moves bytes through a pipe
// leaves behind how far it came, if somebody keeps the pipe.
//
// No call blocks on the pipe. One goroutine at a time fills it and one empties it.
type Pipe struct{ h *Handle }

// NewPipe makes an empty pipe.
func NewPipe() (*Pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	// A pipe that is opened by its place in /proc has both ends (fifo(7)).
	path := fmt.Sprintf("/proc/self/fd/%d", fds[0])
	fd, err := openRetry(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &Pipe{NewHandle(fd)}, nil
}

// PipeOf takes over a pipe that another process has made with NewPipe. It owns
// the handle, also when it fails.
func PipeOf(h *Handle) (*Pipe, error) {
	err := h.use(func(fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFIFO {
			return fmt.Errorf("descriptor is no pipe (mode %o): %w", st.Mode, unix.EINVAL)
		}
		return os.NewSyscallError("fcntl", unix.SetNonblock(fd, true))
	})
	if err != nil {
		_ = h.Close()
		return nil, err
	}
	return &Pipe{h}, nil
}

// Handle is the pipe's descriptor, to pass it on. It stays the pipe's.
func (p *Pipe) Handle() *Handle { return p.h }

// Close gives the pipe up.
func (p *Pipe) Close() error { return p.h.Close() }

// Len is the number of bytes in the pipe.
func (p *Pipe) Len() (n int, err error) {
	err = p.h.use(func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
		return os.NewSyscallError("ioctl FIONREAD", err)
	})
	return n, err
}

// Write puts in as many of the bytes as there is room for.
func (p *Pipe) Write(b []byte) (int, error) { return p.move("write", unix.SYS_WRITE, b) }

// Read takes out what is there, at most len(b) bytes.
func (p *Pipe) Read(b []byte) (int, error) { return p.move("read", unix.SYS_READ, b) }

func (p *Pipe) move(name string, call uintptr, b []byte) (n int, err error) {
	err = p.h.use(func(fd int) (err error) {
		n, err = retryIO(func() (int, error) { return moveNow(call, fd, b) })
		if err == unix.EAGAIN {
			err = nil
		}
		return os.NewSyscallError(name, err)
	})
	return n, err
}

// Fill moves at most max bytes out of a descriptor into the pipe, which must be
// empty. It waits on Go's netpoller until there are some; no bytes and no error
// are the end of them.
func (p *Pipe) Fill(from syscall.RawConn, max int) (n int, err error) {
	cerr := from.Read(func(fd uintptr) bool {
		n, err = p.splice(int(fd), max, false)
		return err != unix.EAGAIN
	})
	if cerr != nil {
		return 0, cerr
	}
	return n, err
}

// FillUntilHangup is Fill out of a unix socket. It ends once the other end has hung up
// and all is read, and leaves the error that the socket may have then (see
// [Readiness.Error]) to others, also those of another process.
func (p *Pipe) FillUntilHangup(from syscall.RawConn, max int) (n int, err error) {
	cerr := from.Read(func(fd uintptr) bool {
		var r Readiness
		if r, err = pollFD(int(fd)); err != nil {
			return true
		}
		if r.Hangup {
			var held int
			if held, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ); err != nil || held == 0 {
				return true
			}
		} else if !r.In {
			return false
		}
		n, err = p.splice(int(fd), max, false)
		return err != unix.EAGAIN
	})
	if cerr != nil {
		return 0, cerr
	}
	return n, err
}

// FillNow is Fill without waiting or heeding deadlines: it fails with EAGAIN.
func (p *Pipe) FillNow(from syscall.RawConn, max int) (n int, err error) {
	err = control(from, func(fd int) (err error) {
		n, err = p.splice(fd, max, false)
		return err
	})
	return n, err
}

// Empty moves bytes out of the pipe into a descriptor, waiting on Go's netpoller
// until that takes some.
func (p *Pipe) Empty(to syscall.RawConn) (int, error) { return p.empty(to, false) }

// EmptyUntilHangup is Empty that fails with EPIPE once the other end has hung up,
// as [WriteUntilHangup] does.
func (p *Pipe) EmptyUntilHangup(to syscall.RawConn) (int, error) { return p.empty(to, true) }

// EmptyNow is Empty of at most max bytes without waiting: it fails with EAGAIN.
func (p *Pipe) EmptyNow(to syscall.RawConn, max int) (n int, err error) {
	err = control(to, func(fd int) (err error) {
		n, err = p.splice(fd, max, true)
		return err
	})
	return n, err
}

func (p *Pipe) empty(to syscall.RawConn, untilHangup bool) (n int, err error) {
	cerr := to.Write(func(fd uintptr) bool {
		if untilHangup {
			var r Readiness
			if r, err = pollFD(int(fd)); err == nil && r.Hangup {
				err = unix.EPIPE
			}
			if err != nil {
				return true
			}
		}
		n, err = p.splice(int(fd), maxSplice, true)
		return err != unix.EAGAIN
	})
	if cerr != nil {
		return 0, cerr
	}
	return n, err
}

// maxSplice is more than a pipe holds, unless somebody has made it larger.
const maxSplice = 1 << 20

func (p *Pipe) splice(other, max int, out bool) (n int, err error) {
	err = p.h.use(func(fd int) (err error) {
		from, to := other, fd
		if out {
			from, to = fd, other
		}
		n, err = retryIO(func() (int, error) { // which returns no -1
			return spliceNow(from, to, max)
		})
		return err
	})
	return n, err
}

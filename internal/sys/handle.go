package sys

import (
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Handle owns a file descriptor that Go's poller does not know. A descriptor
// that a process only keeps, passes on or writes to must stay away from the
// poller: an eventfd that is registered there wakes the process at every event
// that somebody else sends through it.
type Handle struct {
	fd   int
	refs atomic.Int64 // uses in progress, and one more until Close
	done atomic.Bool
}

// NewHandle takes ownership of fd.
func NewHandle(fd int) *Handle {
	h := &Handle{fd: fd}
	h.refs.Store(1)
	return h
}

// Close gives the descriptor up. It is closed once no method that was already
// running needs it any more, so that its number cannot be reused under a
// concurrent user. Closing twice is harmless.
func (h *Handle) Close() error {
	if h.done.Swap(true) {
		return nil
	}
	return h.release()
}

// use runs fn with the descriptor; it fails with [os.ErrClosed] after Close.
func (h *Handle) use(fn func(fd int) error) error {
	if !h.acquire() {
		return os.ErrClosed
	}
	err := fn(h.fd)
	_ = h.release()
	return err
}

func (h *Handle) acquire() bool {
	for {
		n := h.refs.Load()
		if n == 0 || h.done.Load() {
			return false
		}
		if h.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (h *Handle) release() error {
	if h.refs.Add(-1) != 0 {
		return nil
	}
	return os.NewSyscallError("close", unix.Close(h.fd))
}

// CloseAll closes every handle of the list.
func CloseAll(hs []*Handle) {
	for _, h := range hs {
		_ = h.Close()
	}
}

// retry repeats a system call that a signal interrupted.
func retry(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR {
			return err
		}
	}
}

// Duplicate is another descriptor of what rc stands for.
func Duplicate(rc syscall.RawConn) (h *Handle, err error) {
	err = control(rc, func(fd int) error {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		h = NewHandle(dup)
		return nil
	})
	return h, err
}

// File is a file with a descriptor of its own for what the handle stands for. Its
// reads and writes wait on Go's netpoller.
func (h *Handle) File(name string) (f *os.File, err error) {
	err = h.use(func(fd int) error {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		if err := unix.SetNonblock(dup, true); err != nil {
			_ = unix.Close(dup)
			return os.NewSyscallError("fcntl", err)
		}
		f = os.NewFile(uintptr(dup), name)
		return nil
	})
	return f, err
}

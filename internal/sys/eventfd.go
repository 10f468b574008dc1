package sys

import (
	"encoding/binary"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// NewEventfd makes a non-blocking eventfd with the counter 0 (eventfd(2)).
func NewEventfd() (*Handle, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return NewHandle(fd), nil
}

// one is the counter increment that an eventfd takes, in the host's byte order.
var one = binary.NativeEndian.AppendUint64(nil, 1)

// Signal adds one to the eventfd. A counter that is at its limit is as good as
// one that moved, since its reader has something to read: that is no error.
func (h *Handle) Signal() error {
	return h.use(func(fd int) error {
		err := retry(func() error { _, err := unix.Write(fd, one); return err })
		if err == unix.EAGAIN {
			return nil
		}
		return os.NewSyscallError("write", err)
	})
}

// Bell is the reading end of an eventfd, on Go's poller.
type Bell struct {
	file   *os.File
	raw    syscall.RawConn
	closed atomic.Bool
}

// NewBell takes ownership of an eventfd's handle, also when it fails. Nobody
// else may use the handle.
func NewBell(h *Handle) (*Bell, error) {
	// The poller takes only descriptors that are non-blocking.
	if err := unix.SetNonblock(h.fd, true); err != nil {
		_ = h.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(h.fd), "eventfd")
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &Bell{file: f, raw: raw}, nil
}

// Wait blocks until the counter is above zero and sets it to zero. After Close
// it returns [os.ErrClosed].
func (b *Bell) Wait() error { return b.read(true) }

// Clear sets the counter to zero without blocking.
func (b *Bell) Clear() error { return b.read(false) }

func (b *Bell) read(block bool) error {
	var readErr error
	err := b.raw.Read(func(fd uintptr) bool {
		readErr = retry(func() error { return readNoWait(int(fd)) })
		return readErr != unix.EAGAIN || !block
	})
	switch {
	case b.closed.Load():
		return os.ErrClosed
	case err != nil:
		return err
	case readErr == unix.EAGAIN:
		return nil
	}
	return os.NewSyscallError("read", readErr)
}

// readNoWait reads the counter and never blocks, whatever O_NONBLOCK says: the
// flag belongs to the open file, so every process that was passed the eventfd
// can clear it, and a blocked read(2) could not be woken by Close.
func readNoWait(fd int) error {
	var buf [8]byte
	_, err := unix.Preadv2(fd, [][]byte{buf[:]}, -1, unix.RWF_NOWAIT)
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS { // before Linux 5.8
		_, err = unix.Read(fd, buf[:])
	}
	return err
}

// Close closes the eventfd and wakes Wait.
func (b *Bell) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	return b.file.Close()
}

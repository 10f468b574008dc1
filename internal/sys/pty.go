package sys

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// OpenPTMX opens a new pseudo-terminal master on Go's netpoller, so that Close
// and deadlines wake a blocked Read or Write. The slave is locked until
// [UnlockPTY].
func OpenPTMX() (*os.File, error) {
	const path = "/dev/ptmx"
	fd, err := openRetry(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// PTYNumber is N in /dev/pts/N, the slave of a master.
func PTYNumber(master syscall.RawConn) (n uint32, err error) {
	err = control(master, func(fd int) (err error) {
		n, err = unix.IoctlGetUint32(fd, unix.TIOCGPTN)
		return os.NewSyscallError("ioctl TIOCGPTN", err)
	})
	return n, err
}

// UnlockPTY lets the slave of a master be opened.
func UnlockPTY(master syscall.RawConn) error {
	return control(master, func(fd int) error {
		return os.NewSyscallError("ioctl TIOCSPTLCK", unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	})
}

// OpenPTYPeer opens the slave of an unlocked master without going through a
// path. The caller's controlling terminal stays what it is.
func OpenPTYPeer(master syscall.RawConn) (f *os.File, err error) {
	err = control(master, func(fd int) error {
		const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_CLOEXEC
		slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, flags)
		if errno != 0 {
			return os.NewSyscallError("ioctl TIOCGPTPEER", errno)
		}
		f = os.NewFile(slave, "pty slave")
		return nil
	})
	return f, err
}

// Termios is a terminal's line mode. Two of them may be compared with ==.
type Termios = unix.Termios

// GetTermios reads a terminal's line mode; on a pseudo-terminal's master it is
// the slave's.
func GetTermios(tty syscall.RawConn) (t Termios, err error) {
	err = control(tty, func(fd int) error {
		p, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return os.NewSyscallError("ioctl TCGETS", err)
		}
		t = *p
		return nil
	})
	return t, err
}

// SetTermios changes a terminal's line mode at once and drops no bytes; on a
// pseudo-terminal's master it acts on the slave.
func SetTermios(tty syscall.RawConn, t Termios) error {
	return control(tty, func(fd int) error {
		return os.NewSyscallError("ioctl TCSETS", unix.IoctlSetTermios(fd, unix.TCSETS, &t))
	})
}

// RawTermios is t with every kind of processing off: 8 bits, no echo, no
// translation, no signals, no flow control; a read returns as soon as there is
// a byte.
func RawTermios(t Termios) Termios {
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.INPCK | unix.ISTRIP | unix.INLCR |
		unix.IGNCR | unix.ICRNL | unix.IUCLC | unix.IXON | unix.IXANY | unix.IXOFF | unix.IMAXBEL | unix.IUTF8
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag &^= unix.CSIZE | unix.PARENB
	t.Cflag |= unix.CS8 | unix.CREAD
	t.Cc[unix.VMIN] = 1
	t.Cc[unix.VTIME] = 0
	return t
}

// ReleasePTY undoes what a user of a slave can leave behind besides the line
// mode: exclusive use (TIOCEXCL) and stopped output (TCOOFF).
func ReleasePTY(slave syscall.RawConn) error {
	return control(slave, func(fd int) error {
		if err := unix.IoctlSetInt(fd, unix.TIOCNXCL, 0); err != nil {
			return os.NewSyscallError("ioctl TIOCNXCL", err)
		}
		return os.NewSyscallError("ioctl TCXONC", unix.IoctlSetInt(fd, unix.TCXONC, unix.TCOON))
	})
}

// ReadNow reads what is there without blocking or heeding deadlines. Where
// nothing is there it fails with EAGAIN, on a master that nobody else has open
// with EIO.
func ReadNow(rc syscall.RawConn, p []byte) (n int, err error) {
	err = control(rc, func(fd int) error {
		n, err = retryIO(func() (int, error) { return unix.Read(fd, p) })
		return err
	})
	return n, err
}

// WriteUntilHangup writes all of p, blocking on Go's netpoller, and stops with
// EPIPE as soon as the other end has hung up. A plain write to a master would
// put bytes into the buffer of a slave that nobody has open, and block there
// for ever once it is full.
func WriteUntilHangup(rc syscall.RawConn, p []byte) (n int, err error) {
	cerr := rc.Write(func(fd uintptr) bool {
		for n < len(p) {
			var r Readiness
			if r, err = pollFD(int(fd)); err == nil && r.Hangup {
				err = unix.EPIPE
			}
			if err != nil {
				return true
			}
			var m int
			m, err = retryIO(func() (int, error) { return unix.Write(int(fd), p[n:]) })
			n += m
			if err == unix.EAGAIN {
				err = nil
				return false
			}
			if err != nil {
				return true
			}
		}
		return true
	})
	if cerr != nil {
		return n, cerr
	}
	return n, err
}

// control runs fn on the descriptor, which stays open meanwhile.
func control(rc syscall.RawConn, fn func(fd int) error) error {
	var err error
	if cerr := rc.Control(func(fd uintptr) { err = fn(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// retryIO repeats a system call that a signal interrupted.
func retryIO(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// openRetry is open(2) repeated when a signal interrupts it.
func openRetry(path string, flags int) (int, error) {
	return retryIO(func() (int, error) { return unix.Open(path, flags, 0) })
}

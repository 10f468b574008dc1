package sys

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// EvtchnDevice is the device of event channels (module xen-evtchn).
const EvtchnDevice = "/dev/xen/evtchn"

// Requests of the device (Linux's include/uapi/xen/evtchn.h).
const (
	evtchnBindInterdomain = 0x00084501 // u32 domid, u32 remote port; result: local port
	evtchnBindUnbound     = 0x00044502 // u32 domid; result: local port
	evtchnNotify          = 0x00044504 // u32 port
	evtchnReset           = 0x00004505 // no argument
)

// Evtchn is one event channel of the Xen that this kernel runs on. It has a
// descriptor of its own, which Go's poller watches: a storm of events on one
// channel cannot fill a queue that another one needs.
type Evtchn struct {
	file *os.File
	rc   syscall.RawConn
	port uint32
	buf  [4]byte // for Wait
}

// BindInterdomain binds a new port to one that the domain remote has allocated
// for this one. The new port is pending at once.
func BindInterdomain(remote uint16, remotePort uint32) (*Evtchn, error) {
	arg := binary.NativeEndian.AppendUint32(nil, uint32(remote))
	return bindEvtchn(evtchnBindInterdomain, binary.NativeEndian.AppendUint32(arg, remotePort))
}

// BindUnbound allocates a port that the domain remote may bind.
func BindUnbound(remote uint16) (*Evtchn, error) {
	return bindEvtchn(evtchnBindUnbound, binary.NativeEndian.AppendUint32(nil, uint32(remote)))
}

func bindEvtchn(request uintptr, arg []byte) (*Evtchn, error) {
	file, err := openDevice(EvtchnDevice)
	if err != nil {
		return nil, err
	}
	e := &Evtchn{file: file}
	if e.rc, err = file.SyscallConn(); err == nil {
		err = control(e.rc, func(fd int) error {
			port, err := ioctlBytes(fd, request, arg)
			e.port = uint32(port)
			return err
		})
	}
	if err != nil {
		_ = file.Close()
		return nil, os.NewSyscallError("ioctl", err)
	}
	return e, nil
}

// Port is the local port.
func (e *Evtchn) Port() uint32 { return e.port }

// Notify sends an event to the other end; without one it does nothing.
func (e *Evtchn) Notify() error {
	err := control(e.rc, func(fd int) error {
		var arg [4]byte
		binary.NativeEndian.PutUint32(arg[:], e.port)
		_, err := ioctlBytes(fd, evtchnNotify, arg[:])
		return os.NewSyscallError("ioctl", err)
	})
	return err
}

// Wait blocks until an event comes; the port is then masked until Unmask. It
// fails with [os.ErrClosed] after Close. One goroutine at a time.
func (e *Evtchn) Wait() error {
	for {
		n, err := e.file.Read(e.buf[:])
		switch {
		case errors.Is(err, unix.EFBIG):
			// The kernel's queue overflowed. With one port of its own it
			// cannot, but an old kernel's count of unread ports could say so.
			if err := e.reset(); err != nil {
				return err
			}
		case err != nil:
			return err
		case n == len(e.buf) && binary.NativeEndian.Uint32(e.buf[:]) == e.port:
			return nil
		}
	}
}

func (e *Evtchn) reset() error {
	return control(e.rc, func(fd int) error {
		_, err := ioctlBytes(fd, evtchnReset, nil)
		return os.NewSyscallError("ioctl", err)
	})
}

// Unmask lets the next event in, also one that came in the meantime.
func (e *Evtchn) Unmask() error {
	var arg [4]byte
	binary.NativeEndian.PutUint32(arg[:], e.port)
	_, err := e.file.Write(arg[:])
	return err
}

// Close closes the port and wakes Wait.
func (e *Evtchn) Close() error { return e.file.Close() }

// openDevice opens a device so that Go's poller watches it.
func openDevice(path string) (*os.File, error) {
	fd, err := openRaw(path, unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openRaw opens a device for reading and writing.
func openRaw(path string, flags int) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|flags, 0)
		return err
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

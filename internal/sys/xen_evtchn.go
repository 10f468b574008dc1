package sys

import (
	"encoding/binary"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// EvtchnDevice is the device of event channels (module xen-evtchn).
const EvtchnDevice = "/dev/xen/evtchn"

// Requests of the device (Linux's include/uapi/xen/evtchn.h).
const (
	evtchnBindInterdomain = 0x00084501 // u32 domid, u32 remote port; result: local port
	evtchnBindUnbound     = 0x00044502 // u32 domid; result: local port
	evtchnUnbind          = 0x00044503 // u32 port
	evtchnNotify          = 0x00044504 // u32 port
	evtchnReset           = 0x00004505 // no argument
)

// domidSelf is whoever asks (Xen's public header xen.h, DOMID_SELF).
const domidSelf = 0x7ff0

// Evtchn is event channels of the Xen that this kernel runs on, all in one
// descriptor. The kernel's queue has room for each of its ports once, and a port that
// was read is masked: so a storm of events on one takes nothing from another. All
// methods are safe for concurrent use, but for Wait, which is one goroutine's.
type Evtchn struct {
	h *Handle
	// A channel of ours to ourselves, to wake Wait: a read of the device cannot be
	// interrupted.
	wakeHere, wakeThere uint32

	mu     sync.Mutex
	bound  map[uint32]struct{} // guarded by mu
	missed []uint32            // ports that may have an event which the queue has lost; for Wait alone
}

// OpenEvtchn opens the device. No port is bound yet.
func OpenEvtchn() (*Evtchn, error) {
	fd, err := openRaw(EvtchnDevice, 0)
	if err != nil {
		return nil, err
	}
	e := &Evtchn{h: NewHandle(fd), bound: make(map[uint32]struct{})}
	if e.wakeHere, err = e.BindUnbound(domidSelf); err == nil {
		e.wakeThere, err = e.BindInterdomain(domidSelf, e.wakeHere)
	}
	if err != nil {
		_ = e.h.Close()
		return nil, err
	}
	return e, nil
}

// BindInterdomain binds a new port to one that the domain remote has allocated
// for this one. The new port is pending at once.
func (e *Evtchn) BindInterdomain(remote uint16, remotePort uint32) (uint32, error) {
	return e.bind(evtchnBindInterdomain, uint32(remote), remotePort)
}

// BindUnbound allocates a port that the domain remote may bind.
func (e *Evtchn) BindUnbound(remote uint16) (uint32, error) {
	return e.bind(evtchnBindUnbound, uint32(remote))
}

func (e *Evtchn) bind(request uintptr, words ...uint32) (port uint32, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	port, err = e.request(request, words...)
	if err == nil {
		e.bound[port] = struct{}{}
	}
	return port, err
}

// Unbind closes a port.
func (e *Evtchn) Unbind(port uint32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.bound, port)
	_, err := e.request(evtchnUnbind, port)
	return err
}

// Notify sends an event to the other end of a port; without one it does nothing.
func (e *Evtchn) Notify(port uint32) error {
	var arg [4]byte
	binary.NativeEndian.PutUint32(arg[:], port)
	return e.h.use(func(fd int) error { return os.NewSyscallError("ioctl", ioctlNow(fd, evtchnNotify, arg[:])) })
}

func (e *Evtchn) request(request uintptr, words ...uint32) (result uint32, err error) {
	var arg [8]byte
	for i, w := range words {
		binary.NativeEndian.PutUint32(arg[4*i:], w)
	}
	err = e.h.use(func(fd int) error {
		n, err := ioctlBytes(fd, request, arg[:])
		result = uint32(n)
		return os.NewSyscallError("ioctl", err)
	})
	return result, err
}

// hot is how long the next event is waited for without letting go of the processor, in
// Go's sense. To let go and come back costs several system calls, among them a wake-up
// for Go's monitor thread, which then looks on for a while: more than all that an event
// needs. An idle program waits without it, and one that Go gives a single processor
// always does: nothing else in it would run meanwhile.
const hot = 20 * time.Millisecond

// Wait blocks until there are events, for at most d unless that is below zero, and
// fills ports with those that have one; they are masked until Unmask. It also returns
// after a Wake.
func (e *Evtchn) Wait(ports []uint32, d time.Duration) (n int, err error) {
	err = e.h.use(func(fd int) (err error) {
		n, err = e.wait(fd, ports, d)
		return err
	})
	return n, err
}

func (e *Evtchn) wait(fd int, ports []uint32, d time.Duration) (int, error) {
	if len(e.missed) > 0 {
		n := copy(ports, e.missed)
		e.missed = e.missed[n:]
		return n, nil
	}
	if d >= 0 || runtime.GOMAXPROCS(0) > 1 {
		ready, err := pollHot(fd, min(uint64(d), uint64(hot)))
		if err != nil {
			return 0, os.NewSyscallError("ppoll", err)
		}
		if !ready && d >= 0 {
			return 0, nil
		}
	}
	n, err := readPorts(fd, ports)
	switch err {
	case nil:
		return e.awake(ports, n)
	case unix.EINTR:
		return 0, nil
	case unix.EFBIG: // old kernels have a queue of 1024 events, whatever is bound
		e.mu.Lock()
		defer e.mu.Unlock()
		e.missed = slices.Collect(maps.Keys(e.bound))
		_, err = e.request(evtchnReset)
		return 0, err
	}
	return 0, os.NewSyscallError("read", err)
}

// awake takes out what Wake has sent.
func (e *Evtchn) awake(ports []uint32, n int) (int, error) {
	got := ports[:0]
	for _, port := range ports[:n] {
		if port != e.wakeHere && port != e.wakeThere {
			got = append(got, port)
		} else if err := e.Unmask([]uint32{port}); err != nil {
			return 0, err
		}
	}
	return len(got), nil
}

// Mask does nothing: a port that was read is masked.
func (e *Evtchn) Mask(uint32) error { return nil }

// Unmask lets the next events of these ports in, also those that came in the meantime.
func (e *Evtchn) Unmask(ports []uint32) error {
	return e.h.use(func(fd int) error { return os.NewSyscallError("write", writePorts(fd, ports)) })
}

// Wake makes a Wait return, the one in progress or the next.
func (e *Evtchn) Wake() error { return e.Notify(e.wakeThere) }

// Close closes all ports; nobody may be in Wait.
func (e *Evtchn) Close() error { return e.h.Close() }

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

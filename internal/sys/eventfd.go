package sys

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

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
// one that moved, since its reader has something to read: that is no error. Who else
// has the eventfd can make this block, by a full counter and F_SETFL.
func (h *Handle) Signal() error {
	return h.use(func(fd int) error {
		err := retry(func() error { _, err := unix.Write(fd, one); return err })
		if err == unix.EAGAIN {
			return nil
		}
		return os.NewSyscallError("write", err)
	})
}

// Bells waits for many eventfds at once, in one goroutine on Go's poller. A counter is
// not read: that it was written to is the event. All methods are safe for concurrent
// use, but for Wait, which is one goroutine's.
type Bells struct {
	epoll *os.File
	rc    syscall.RawConn
	wake  *Handle

	mu    sync.Mutex
	bells map[uint32]*Handle // guarded by mu
	last  uint32             // key; guarded by mu

	events [64]unix.EpollEvent // for Wait
}

// wakeKey is the key of Bells' own eventfd.
const wakeKey = 0

// NewBells waits for nothing yet.
func NewBells() (*Bells, error) {
	epoll, rc, err := newEpoll()
	if err != nil {
		return nil, err
	}
	b := &Bells{epoll: epoll, rc: rc, bells: make(map[uint32]*Handle)}
	if b.wake, err = NewEventfd(); err == nil {
		err = b.control(unix.EPOLL_CTL_ADD, b.wake, wakeKey)
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Close closes what Bells has opened itself; nobody may be in Wait.
func (b *Bells) Close() error {
	err := b.epoll.Close()
	if b.wake != nil {
		err = errors.Join(err, b.wake.Close())
	}
	return err
}

// Add waits for an eventfd too, and returns its key. What was written to it before may
// be an event.
func (b *Bells) Add(h *Handle) (key uint32, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key = b.last + 1; key == wakeKey || b.bells[key] != nil; key++ {
	}
	if err := b.control(unix.EPOLL_CTL_ADD, h, key); err != nil {
		return 0, err
	}
	b.last, b.bells[key] = key, h
	return key, nil
}

// Remove ends the wait for an eventfd, before that is closed.
func (b *Bells) Remove(key uint32) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.bells[key]
	if h == nil {
		return nil
	}
	delete(b.bells, key)
	return b.control(unix.EPOLL_CTL_DEL, h, key)
}

// Wake makes a Wait return, the one in progress or the next.
func (b *Bells) Wake() error { return b.wake.Signal() }

func (b *Bells) control(op int, h *Handle, key uint32) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(key)}
	return control(b.rc, func(epoll int) error {
		return h.use(func(fd int) error { return os.NewSyscallError("epoll_ctl", unix.EpollCtl(epoll, op, fd, &ev)) })
	})
}

// Wait fills keys with those that were written to, and returns how many. It returns
// when there are some, after d unless that is below zero, and after a Wake. Below a
// millisecond it holds its thread, as Go's timers are no finer.
func (b *Bells) Wait(keys []uint32, d time.Duration) (n int, err error) {
	events := b.events[:min(len(b.events), len(keys))]
	if d >= time.Millisecond {
		_ = b.epoll.SetReadDeadline(time.Now().Add(d)) // fails only when closed
		defer b.epoll.SetReadDeadline(time.Time{})
	}
	var got int
	cerr := b.rc.Read(func(fd uintptr) bool {
		if d > 0 && d < time.Millisecond {
			got, err = epollWait(int(fd), events, d)
			return true
		}
		got, err = epollNow(int(fd), events)
		return got > 0 || err != nil || d == 0
	})
	if cerr != nil && !errors.Is(cerr, os.ErrDeadlineExceeded) {
		return 0, cerr
	}
	if err != nil {
		return 0, os.NewSyscallError("epoll_wait", err)
	}
	for _, ev := range events[:got] {
		if ev.Fd != wakeKey {
			keys[n] = uint32(ev.Fd)
			n++
		}
	}
	return n, nil
}

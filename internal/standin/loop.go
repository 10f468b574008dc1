package standin

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// Loop is a device model for as long as it runs. One goroutine uses it, but for Stop.
type Loop struct {
	Request
	// RunDir is the daemon's.
	RunDir string
	// TTYs are the terminals of consoles, by their devids; nil asks the daemon alone.
	TTYs func() map[int]string
	// Left is called when libxl has said what it had to say. It may be nil.
	Left func()
	// Log takes what people want to know.
	Log func(what string)

	epoll    int
	stop     [2]int // a pipe
	monitors map[int]Monitor
	talks    map[int]*talk
	daemon   int // connection to it, -1 for none
	answer   answer
	ready    bool // the daemon has said so
	quit     bool
	closed   bool
}

// again is how often a daemon is looked for that has ended.
const again = time.Second

// Listen opens the sockets on which libxl talks: it connects as soon as it sees that the
// device model is ready.
func (l *Loop) Listen() (err error) {
	if l.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if err := syscall.Pipe2(l.stop[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return err
	}
	l.daemon, l.monitors, l.talks = -1, make(map[int]Monitor), make(map[int]*talk)
	if err := l.add(l.stop[0]); err != nil {
		return err
	}
	for _, m := range l.Monitors {
		fd, err := m.listen()
		if err != nil {
			return fmt.Errorf("QMP socket %s: %w", m.ID, err)
		}
		l.monitors[fd] = m
		if err := l.add(fd); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends Run.
func (l *Loop) Stop() { _, _ = syscall.Write(l.stop[1], []byte{0}) }

// Close closes everything but inherited sockets, which another program may need.
func (l *Loop) Close() {
	if l.closed {
		return
	}
	l.closed = true
	for fd := range l.talks {
		_ = syscall.Close(fd)
	}
	for fd, m := range l.monitors {
		if m.Path != "" {
			_ = syscall.Close(fd)
			_ = syscall.Unlink(m.Path)
		}
	}
	l.hangUp()
	for _, fd := range []int{l.epoll, l.stop[0], l.stop[1]} {
		_ = syscall.Close(fd)
	}
}

// HandOver asks the daemon to serve the domain's consoles. [Ready] means that it does,
// and has told libxl; then Run lasts until the domain's end. [Alone], [QEMU] and [Beside]
// are for somebody else. No daemon is an Alone.
func (l *Loop) HandOver() (verdict, why string, err error) {
	if l.daemon, err = connect(l.RunDir, l.DomID); err != nil || l.daemon < 0 {
		return Alone, "no daemon runs", err
	}
	var buf [4096]byte
	for l.answer.word == "" {
		n, err := read(l.daemon, buf[:])
		if err == nil && n == 0 {
			return Alone, "the daemon has ended", nil
		}
		if err == nil {
			err = l.answer.take(buf[:n])
		}
		if err != nil {
			return "", "", err
		}
	}
	verdict, why = l.answer.word, l.answer.why
	if l.ready = verdict == Ready; !l.ready {
		l.hangUp()
		return verdict, why, nil
	}
	return Ready, "", l.add(l.daemon)
}

func (l *Loop) hangUp() {
	if l.daemon >= 0 {
		_ = syscall.Close(l.daemon)
	}
	l.daemon, l.answer = -1, answer{ttys: l.answer.ttys}
}

// Run talks to libxl until the domain is gone, a client asks it to end, or Stop. It
// returns [ErrQEMU] when the daemon has said [Beside].
func (l *Loop) Run() error {
	events := make([]syscall.EpollEvent, 4)
	for {
		wait := -1
		if l.ready && l.daemon < 0 {
			wait = int(again / time.Millisecond)
		}
		n, err := syscall.EpollWait(l.epoll, events, wait)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return err
		}
		if n == 0 && wait > 0 {
			if err := l.reconnect(); err != nil {
				return err
			}
		}
		for _, e := range events[:max(n, 0)] {
			if over, err := l.handle(int(e.Fd)); over || err != nil {
				return err
			}
		}
	}
}

// handle does what a descriptor is ready for.
func (l *Loop) handle(fd int) (over bool, err error) {
	if fd == l.stop[0] {
		return true, nil
	}
	if fd == l.daemon {
		return l.hearDaemon()
	}
	if _, ok := l.monitors[fd]; ok {
		return false, l.accept(fd)
	}
	if t := l.talks[fd]; t != nil && !l.converse(fd, t) {
		_ = syscall.Close(fd)
		delete(l.talks, fd)
		if l.Left != nil && !l.quit {
			l.Left()
		}
	}
	return l.quit, nil
}

// hearDaemon says whether the domain is gone, or needs something else.
func (l *Loop) hearDaemon() (gone bool, need error) {
	var buf [4096]byte
	n, err := read(l.daemon, buf[:])
	if err == nil && n > 0 {
		err = l.answer.take(buf[:n])
	}
	switch word := l.answer.word; {
	case err != nil || n == 0:
		l.hangUp() // the next daemon goes on
	case word == Gone:
		return true, nil
	case word == Beside:
		return true, ErrQEMU
	case word != "" && word != Ready:
		l.hangUp()
	}
	return false, nil
}

// reconnect asks a daemon that has come since to tell us of the domain's end. It serves
// the consoles already.
func (l *Loop) reconnect() error {
	fd, err := connect(l.RunDir, l.DomID)
	if err != nil || fd < 0 {
		return nil // there may be one later
	}
	l.daemon = fd
	return l.add(fd)
}

func (l *Loop) accept(listener int) error {
	fd, _, err := syscall.Accept4(listener, syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
	if err != nil {
		return nil // it has left
	}
	q := &qmp{chardevs: l.chardevs, quit: func() { l.quit = true }}
	l.talks[fd] = &talk{qmp: q}
	if _, err := syscall.Write(fd, []byte(greeting)); err != nil {
		l.Log(fmt.Sprintf("QMP: %v", err))
	}
	return l.add(fd)
}

// converse answers what a client has said; false is the end of it.
func (l *Loop) converse(fd int, t *talk) bool {
	var buf [16 << 10]byte
	n, err := read(fd, buf[:])
	if errors.Is(err, syscall.EAGAIN) {
		return true
	}
	if err != nil || n == 0 {
		return false
	}
	answers, over := t.hear(buf[:n])
	// A client that does not read is no libxl.
	if n, err := syscall.Write(fd, answers); err != nil || n < len(answers) {
		l.Log(fmt.Sprintf("QMP: the client does not read: %v", err))
		return false
	}
	return !over
}

func (l *Loop) add(fd int) error {
	return syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)})
}

func read(fd int, p []byte) (n int, err error) {
	for {
		if n, err = syscall.Read(fd, p); !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// chardevs is what libxl and people with a QMP shell see.
func (l *Loop) chardevs() []chardevInfo {
	rows := []chardevInfo{}
	for _, m := range l.Monitors {
		rows = append(rows, chardevInfo{Label: m.ID, Filename: socketFile(m.Path), FrontendOpen: true})
	}
	ttys := l.answer.ttys
	if l.TTYs != nil {
		ttys = l.TTYs()
	}
	for _, c := range l.Chardevs {
		file := socketFile(c.Path)
		if c.Path == "" {
			devid, _ := c.DevID()
			file = strings.TrimSuffix("pty:"+ttys[devid], ":")
		}
		rows = append(rows, chardevInfo{Label: c.ID, Filename: file, FrontendOpen: true})
	}
	return rows
}

func socketFile(path string) string { return "unix:" + path + ",server=on" }

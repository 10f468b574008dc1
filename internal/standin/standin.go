// Package standin is what libxl sees of the device model that stands in for a QEMU: its
// command line, the conversation in QMP that libxl expects of one, and that it is ready.
// It has the domain's consoles served by the daemon.
//
// Each new domain waits for it, so it does little and needs little: it has one thread,
// talks to nobody but the daemon, which reads and writes what there is in xenstore, and
// what is rare is left to package devicemodel.
//
// Facts: libxl_dm.c and libxl_qmp.c of Xen 4.17 to 4.22.
package standin

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/xenchan/xenchan/xen"
)

// First words of what a daemon answers to a device model that asks for its domain's
// consoles to be served. A connection on which Ready was said stays open, and is closed
// after Gone when the domain has ended.
const (
	Ready = "ready" // they are served, and libxl has been told
	TTY   = "tty"   // before it: devid and terminal of a console
	Alone = "alone" // the daemon cannot serve them, and why
	QEMU  = "qemu"  // the domain needs a real one, and why
	Gone  = "gone"
	// Beside is what a daemon says, also after Ready, that serves the consoles of a domain
	// which has got a device for which it needs a real QEMU, and why: one that keeps off the
	// consoles. Libxl adds some devices after it has started the device model.
	Beside = "beside"
)

// ErrQEMU ends a device model that has to become a real QEMU.
var ErrQEMU = errors.New("the domain has got a device that only QEMU serves")

// Path is what a daemon is asked at, by POST; a domid takes the place of %v.
const Path = "/v1/device-models/%v"

// Socket is where the daemon of a run directory is asked.
func Socket(runDir string) string { return filepath.Join(runDir, "daemon.sock") }

// asks is the request itself.
func asks(dom xen.DomID) string {
	return fmt.Sprintf("POST "+Path+" HTTP/1.1\r\nHost: daemon\r\nContent-Length: 0\r\n\r\n", dom)
}

// refused is a daemon that has failed to serve the consoles.
type refused struct{ why string }

func (r refused) Error() string { return "the daemon does not serve the consoles: " + r.why }

// answer is what a daemon has said so far.
type answer struct {
	heard []byte
	ttys  map[int]string
	word  string // the last one; empty while there is none
	why   string
}

// maxAnswer bounds what a daemon says at a time, in bytes.
const maxAnswer = 64 << 10

// take adds what has come.
func (a *answer) take(more []byte) error {
	a.heard = append(a.heard, more...)
	if len(a.heard) > maxAnswer {
		return refused{"its answer has no end"}
	}
	text := string(a.heard)
	if a.word == "" {
		header, body, ok := strings.Cut(text, "\r\n\r\n")
		if !ok {
			return nil
		}
		switch status := strings.Fields(header); {
		case len(status) < 2:
			return refused{"its answer is no HTTP"}
		case status[1] == "404":
			a.word, a.why = Alone, "the daemon that runs is an older one"
			return nil
		case status[1] != "200" && !strings.Contains(body, "\n"):
			return nil
		case status[1] != "200":
			return refused{strings.TrimSpace(body)}
		}
		text = body
	}
	for {
		line, rest, ok := strings.Cut(text, "\n")
		if !ok {
			break
		}
		text = rest
		word, why, _ := strings.Cut(line, " ")
		if word != TTY {
			a.word, a.why, a.heard = word, why, []byte(rest)
			continue
		}
		var devid int
		var path string
		if n, _ := fmt.Sscan(why, &devid, &path); n == 2 {
			if a.ttys == nil {
				a.ttys = make(map[int]string)
			}
			a.ttys[devid] = path
		}
	}
	return nil
}

// listen opens a monitor's socket in place of one that was left behind.
func (m Monitor) listen() (fd int, err error) {
	if m.Path == "" {
		return m.FD, syscall.SetNonblock(m.FD, true)
	}
	var st syscall.Stat_t
	if err := syscall.Lstat(m.Path, &st); err == nil && st.Mode&syscall.S_IFMT == syscall.S_IFSOCK {
		if err := syscall.Unlink(m.Path); err != nil {
			return -1, err
		}
	}
	fd, err = socket(syscall.SOCK_NONBLOCK)
	if err != nil {
		return -1, err
	}
	err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: m.Path})
	if err == nil {
		err = syscall.Listen(fd, 4)
	}
	if err != nil {
		syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}

func socket(flags int) (int, error) {
	return syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|flags, 0)
}

// patience is how long a daemon may need for an answer, in seconds. It is longer than
// the daemon gives itself, and libxl waits for 60.
const patience = 20

// connect asks the daemon of a run directory. No daemon is fd -1.
func connect(runDir string, dom xen.DomID) (fd int, err error) {
	if fd, err = socket(0); err != nil {
		return -1, err
	}
	for _, way := range []int{syscall.SO_RCVTIMEO, syscall.SO_SNDTIMEO} {
		if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, way, &syscall.Timeval{Sec: patience}); err != nil {
			syscall.Close(fd)
			return -1, err
		}
	}
	if err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: Socket(runDir)}); err == nil {
		_, err = syscall.Write(fd, []byte(asks(dom)))
	}
	if err != nil {
		syscall.Close(fd)
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EPIPE) {
			err = nil
		}
		return -1, err
	}
	return fd, nil
}

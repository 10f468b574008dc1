package guest

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/xenchan/xenchan/internal/sys"
)

// terminal is one that is kept open. Its goroutine ends with it, and wakes for nothing
// but its end: not for what goes over it to and from others.
type terminal struct {
	file   *os.File
	rc     syscall.RawConn
	hangup *sys.Hangup
	done   chan struct{}
	serial uint64
	was    sys.Termios // before it was made raw
	raw    bool
}

// holds counts terminals, so that each is another one.
var holds atomic.Uint64

// holdTTY opens a terminal to keep it, and makes it raw.
func holdTTY(path string, changed func()) (*terminal, error) {
	file, err := sys.OpenUnpolled(path)
	if err != nil {
		return nil, err
	}
	t := &terminal{file: file, done: make(chan struct{}), serial: holds.Add(1), raw: true}
	if t.rc, err = file.SyscallConn(); err == nil {
		t.was, err = sys.GetTermios(t.rc)
	}
	if err == nil {
		err = makeRaw(file)
	}
	if err == nil {
		t.hangup, err = sys.WatchHangup(t.rc)
	}
	if err != nil {
		return nil, errors.Join(&os.PathError{Op: "hold", Path: path, Err: err}, file.Close())
	}
	go func() {
		defer close(t.done)
		_ = t.hangup.Wait() // fails when it is closed
		changed()
	}()
	return t, nil
}

// irq stands for the terminal's interrupt where the kernel shows none.
func (t *terminal) irq(n int) irq { return irq{-1 - n, t.serial} }

// setRaw keeps a channel's terminal raw, and gives back what that of a console without
// a name was.
func (t *terminal) setRaw(raw bool) {
	switch {
	case raw && !t.raw:
		_ = makeRaw(t.file)
	case !raw && t.raw:
		_ = sys.SetTermios(t.rc, t.was)
	}
	t.raw = raw
}

func (t *terminal) hungUp() bool {
	r, err := sys.PollNow(t.rc)
	return err != nil || r.Hangup
}

func (t *terminal) close() {
	_ = t.hangup.Close()
	<-t.done
	_ = t.file.Close()
}

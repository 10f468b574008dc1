package guest

import (
	"errors"
	"os"
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
}

// holdTTY opens a terminal to keep it.
func holdTTY(path string, raw bool, changed func()) (*terminal, error) {
	file, err := sys.OpenUnpolled(path)
	if err != nil {
		return nil, err
	}
	t := &terminal{file: file, done: make(chan struct{})}
	if t.rc, err = file.SyscallConn(); err == nil && raw {
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

func (t *terminal) hungUp() bool {
	r, err := sys.PollNow(t.rc)
	return err != nil || r.Hangup
}

func (t *terminal) close() {
	_ = t.hangup.Close()
	<-t.done
	_ = t.file.Close()
}

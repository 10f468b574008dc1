package guest

import (
	"os"
	"syscall"

	"github.com/xenchan/xenchan/internal/sys"
)

// terminal is one that is kept open. Its goroutine ends with it.
type terminal struct {
	file *os.File
	rc   syscall.RawConn
	done chan struct{}
}

func newTerminal(file *os.File, changed func()) (*terminal, error) {
	rc, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	t := &terminal{file: file, rc: rc, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		_ = sys.WaitHangup(rc) // fails when it is closed
		changed()
	}()
	return t, nil
}

func (t *terminal) hungUp() bool {
	r, err := sys.PollNow(t.rc)
	return err != nil || r.Hangup
}

func (t *terminal) close() {
	_ = t.file.Close()
	<-t.done
}

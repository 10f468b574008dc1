package cli

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/channel/xlcfg"
)

// pipePatience is how long a pipe may be silent.
const pipePatience = 10 * time.Second

// readFile reads a whole configuration, from standard input if path is "-". It
// neither waits for ever nor reads much more than the parser would accept.
func (a *app) readFile(path string) ([]byte, error) {
	return a.readSource(path, "domain configuration", xlcfg.MaxFileSize)
}

// readSource reads a whole file of at most limit bytes, from standard input if path
// is "-". what is said to be in it when it cannot be that.
func (a *app) readSource(path, what string, limit int) ([]byte, error) {
	src, err := a.readWhole(path, what, limit)
	if err != nil {
		return nil, err
	}
	if len(src) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes, which no %s has; check that this is the right file", path, limit, what)
	}
	return src, nil
}

func (a *app) readWhole(path, what string, limit int) ([]byte, error) {
	if path == "-" {
		return readAll(a.stdin, limit)
	}
	// A FIFO would keep an open that blocks until somebody writes to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch info.Mode().Type() {
	case 0:
		return readAll(f, limit)
	case fs.ModeDir:
		return nil, fmt.Errorf("%s is a directory, not a %s", path, what)
	case fs.ModeNamedPipe:
		return readPipe(f, what, limit, pipePatience)
	}
	return nil, fmt.Errorf("%s is a device, not a %s", path, what)
}

func readAll(r io.Reader, limit int) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, int64(limit)+1))
}

// readPipe reads a pipe to its end, waiting for somebody to write to it.
func readPipe(f *os.File, what string, limit int, patience time.Duration) ([]byte, error) {
	deadline := time.Now().Add(patience)
	if err := f.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	for {
		src, err := readAll(f, limit)
		switch {
		case os.IsTimeout(err) || len(src) == 0 && time.Now().After(deadline):
			return nil, fmt.Errorf("%s is a pipe, and nobody wrote a whole %s to it within %v", f.Name(), what, patience)
		case err != nil || len(src) > 0:
			return src, err
		}
		time.Sleep(10 * time.Millisecond) // the end of a pipe that nobody has opened yet
	}
}

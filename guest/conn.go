package guest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
)

// Conn is an open channel. When its terminal hangs up, because the channel was
// unplugged or the guest restored, Read and Write wait until it is there again and
// go on with it. What was on its way then is lost; so is the rest of a Write that
// was under way on the host's side.
type Conn struct {
	ctx       context.Context
	cancel    context.CancelFunc
	dir, name string

	mu  sync.Mutex
	tty *os.File // nil: hung up; guarded by mu
	// used is the link that led to the latest terminal. Linux lets a terminal that
	// has hung up be opened again while anybody has it open, and it is deaf then:
	// so only another link leads to one that is worth opening. Guarded by mu.
	used fs.FileInfo
}

// sameLink reports whether a link has not been made anew.
func sameLink(a, b fs.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime())
}

// Open waits for a channel and opens it in raw mode. The Conn ends with ctx.
func Open(ctx context.Context, dir, name string) (*Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &Conn{ctx: ctx, cancel: cancel, dir: dir, name: name}
	if _, err := c.open(); err != nil {
		cancel()
		return nil, err
	}
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.tty != nil {
			_ = c.tty.Close()
			c.tty = nil
		}
	})
	return c, nil
}

// Close ends the Conn, and wakes Read and Write.
func (c *Conn) Close() error {
	c.cancel()
	return nil
}

// Read reads what comes from the host.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		tty, err := c.open()
		if err != nil {
			return 0, err
		}
		n, err := tty.Read(p)
		if n > 0 {
			return n, nil
		}
		if !hungUp(err) {
			return 0, c.why(err)
		}
		c.drop(tty)
	}
}

// Write writes all of p to the host.
func (c *Conn) Write(p []byte) (n int, err error) {
	for n < len(p) {
		tty, err := c.open()
		if err != nil {
			return n, err
		}
		m, err := tty.Write(p[n:])
		n += m
		if err == nil {
			continue
		}
		if !hungUp(err) {
			return n, c.why(err)
		}
		c.drop(tty)
	}
	return n, nil
}

// hungUp reports whether err is what a terminal says after a hang-up. In raw mode
// it has no other end of file.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO)
}

// why is the context's error instead of that of the file it has closed.
func (c *Conn) why(err error) error {
	if c.ctx.Err() != nil {
		return c.ctx.Err()
	}
	return err
}

// open is the terminal, which it waits for.
func (c *Conn) open() (*os.File, error) {
	for {
		c.mu.Lock()
		tty, used := c.tty, c.used
		c.mu.Unlock()
		if tty != nil {
			return tty, nil
		}
		path, err := Wait(c.ctx, c.dir, c.name)
		if err != nil {
			return nil, err
		}
		link, err := os.Lstat(path)
		if err == nil && !sameLink(used, link) {
			if tty, err = openTTY(path); err == nil {
				if now, err := os.Lstat(path); err == nil && sameLink(link, now) {
					return c.use(tty, link)
				}
				_ = tty.Close() // it has become another's meanwhile, perhaps
			}
		}
		if err != nil && !gone(err) {
			return nil, err
		}
		select {
		case <-time.After(lookPause):
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		}
	}
}

// use makes tty the terminal, unless another goroutine was faster.
func (c *Conn) use(tty *os.File, link fs.FileInfo) (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.ctx.Err(); err != nil {
		_ = tty.Close()
		return nil, err
	}
	if c.tty == nil {
		c.tty, c.used = tty, link
	} else {
		_ = tty.Close()
	}
	return c.tty, nil
}

func (c *Conn) drop(tty *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tty == tty {
		_ = tty.Close()
		c.tty = nil
	}
}

// gone reports whether opening a terminal failed because no device is behind it.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENXIO)
}

// openTTY opens a terminal. Where a Holder has it open, it is raw already.
func openTTY(path string) (*os.File, error) {
	tty, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := makeRaw(tty); err != nil {
		_ = tty.Close()
		return nil, &os.PathError{Op: "raw mode", Path: path, Err: err}
	}
	return tty, nil
}

func makeRaw(tty *os.File) error {
	rc, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	t, err := sys.GetTermios(rc)
	if err != nil || sys.RawTermios(t) == t {
		return err
	}
	return sys.SetTermios(rc, sys.RawTermios(t))
}

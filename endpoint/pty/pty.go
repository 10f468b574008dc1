// Package pty serves a channel on a pseudo-terminal: clients open /dev/pts/N.
//
// The kernel shows on the master (POLLHUP) whether anybody has the slave open,
// tells when the last one leaves, and keeps bytes that were not read for
// whoever opens the slave next. It does not tell when somebody opens it, so one
// inotify instance for the process, shared by all terminals, does; presence.go
// has it. All who hold the slave open at one time are one client.
package pty

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/internal/sys"
)

// Line is the line mode that each new client of a terminal finds.
type Line int

const (
	// Raw passes every byte as it is, both ways: what a channel needs, and the
	// zero value.
	Raw Line = iota
	// Cooked is the mode of a fresh terminal: echo, lines, CR/LF translation,
	// signals. A guest's hvc terminal starts like that.
	Cooked
)

// Config says what terminal to open. The zero value is raw and private to the
// caller's user.
type Config struct {
	// Line is set from the start, and again each time the last opener of the
	// slave has left. That takes a moment, as it is we who do it and not the
	// kernel: who opens the slave in the same moment may find the mode that
	// the last one left.
	Line Line
	// Mode holds the slave's permission bits; zero means 0600.
	Mode fs.FileMode
	// UID and GID, unless nil, become the slave's owner and group.
	UID, GID *int
}

// Endpoint is a terminal on which clients are awaited. It holds one descriptor.
type Endpoint struct {
	path  string
	file  *os.File
	rc    syscall.RawConn
	line  sys.Termios
	watch int32 // set once by presence.add

	mu      sync.Mutex
	changed chan struct{} // closed, and replaced, whenever presence or state may have changed; guarded by mu
	client  *client       // accepted and not closed yet; guarded by mu
	used    bool          // somebody had the slave open since tidy was last complete; guarded by mu
	closed  bool          // guarded by mu
}

var _ endpoint.Endpoint = (*Endpoint)(nil)

// Open makes a new terminal. The slave's owner and rights are right from the
// first moment at which anybody can open it.
func Open(cfg Config) (*Endpoint, error) {
	file, err := sys.OpenPTMX()
	if err != nil {
		return nil, fmt.Errorf("pty: %w", err)
	}
	e := &Endpoint{file: file, changed: make(chan struct{})}
	if err := e.setUp(cfg); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("pty: %w", err)
	}
	return e, nil
}

// locate finds the slave.
func (e *Endpoint) locate() (err error) {
	if e.rc, err = e.file.SyscallConn(); err != nil {
		return err
	}
	n, err := sys.PTYNumber(e.rc)
	if err != nil {
		return err
	}
	// /dev/ptmx takes its terminals from the devpts that is mounted on the pts
	// directory next to it, so this is the path, and it has no symbolic links.
	e.path = fmt.Sprintf("/dev/pts/%d", n)
	return nil
}

func (e *Endpoint) setUp(cfg Config) (err error) {
	if err := e.locate(); err != nil {
		return err
	}
	if err := setRights(e.path, cfg); err != nil {
		return err
	}
	if err := sys.UnlockPTY(e.rc); err != nil {
		return err
	}
	// Until the slave was open once, the master does not show a hang-up.
	slave, err := sys.OpenPTYPeer(e.rc)
	if err != nil {
		return err
	}
	defer slave.Close()
	if err := samePTY(slave, e.path); err != nil {
		return err
	}
	if e.line, err = sys.GetTermios(e.rc); err != nil {
		return err
	}
	if cfg.Line == Raw {
		e.line = sys.RawTermios(e.line)
	}
	if err := sys.SetTermios(e.rc, e.line); err != nil {
		return err
	}
	return presence.add(e)
}

// setRights prepares the slave while it is still locked.
func setRights(path string, cfg Config) error {
	uid, gid := -1, -1
	if cfg.UID != nil {
		uid = *cfg.UID
	}
	if cfg.GID != nil {
		gid = *cfg.GID
	}
	if err := os.Lchown(path, uid, gid); err != nil {
		return err
	}
	mode := cfg.Mode.Perm()
	if mode == 0 {
		mode = 0o600
	}
	return os.Chmod(path, mode)
}

// samePTY catches a /dev/pts that is not the devpts of /dev/ptmx.
func samePTY(slave *os.File, path string) error {
	want, err := slave.Stat()
	if err != nil {
		return err
	}
	got, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(want, got) {
		return fmt.Errorf("%s is not the terminal that /dev/ptmx gave: is another devpts mounted on /dev/pts?", path)
	}
	return nil
}

// Path is the slave's path, which clients open.
func (e *Endpoint) Path() string { return e.path }

// Accept waits until somebody has the slave open, or has left bytes there, and
// the client before is closed. When that one was closed while the slave is
// still held open, the holder is the next client at once.
func (e *Endpoint) Accept(ctx context.Context) (endpoint.Client, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c, changed, err := e.admit()
		if err != nil {
			return nil, fmt.Errorf("pty: accept on %s: %w", e.path, err)
		}
		if c != nil {
			return c, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// admit makes a client if there is one now; else changed tells when to try again.
func (e *Endpoint) admit() (c *client, changed <-chan struct{}, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, nil, net.ErrClosed
	}
	if e.client != nil {
		return nil, e.changed, nil
	}
	r, err := sys.PollNow(e.rc)
	if err != nil {
		return nil, nil, err
	}
	if r.Hangup && !r.In {
		return nil, e.changed, nil
	}
	e.used = true
	e.client = &client{e: e}
	return e.client, nil, nil
}

// Discard takes away what waits in the terminal for the next client, and says how many
// bytes that were. It fails with EBUSY while there is a client.
func (e *Endpoint) Discard() (n int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		return 0, fmt.Errorf("pty: somebody has %s open: %w", e.path, syscall.EBUSY)
	}
	slave, err := sys.OpenPTYPeer(e.rc)
	if err != nil {
		return 0, fmt.Errorf("pty: %w", err)
	}
	defer slave.Close()
	rc, err := slave.SyscallConn()
	if err != nil {
		return 0, err
	}
	for waste := make([]byte, 4<<10); ; {
		switch m, err := sys.ReadNow(rc, waste); {
		case m > 0:
			n += m
		case err == nil, errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EIO):
			return n, nil
		default:
			return n, fmt.Errorf("pty: %s: %w", e.path, err)
		}
	}
}

// Close ends the terminal: the slave's path goes, and so do the clients. Those
// that still have it open see a hang-up.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.mu.Unlock()
	err := errors.Join(presence.remove(e), e.file.Close())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.announce()
	return err
}

// announce wakes all who wait for a change. The caller holds mu.
func (e *Endpoint) announce() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// look follows an event on the terminal: somebody opened the slave, or the last
// one left. Events may be late or too many, so only what the kernel shows now counts.
func (e *Endpoint) look() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	switch r, err := sys.PollNow(e.rc); {
	case err != nil:
	case r.Hangup:
		if e.client != nil {
			e.client.leave()
		}
		e.tidy()
	default:
		e.used = true
	}
	e.announce()
}

// tidy gives the next client the terminal that the first one found, whatever
// the last one did to it. The caller holds mu, so that Accept does not take our
// own short opening for a client. Failures leave the terminal as it is: the
// next client can still set it up itself.
func (e *Endpoint) tidy() {
	if t, err := sys.GetTermios(e.rc); err == nil && t != e.line {
		_ = sys.SetTermios(e.rc, e.line)
	}
	// Our closing of the slave below is seen as another hang-up; used stops
	// that from going round for ever.
	if !e.used {
		return
	}
	e.used = false
	slave, err := sys.OpenPTYPeer(e.rc)
	if err != nil {
		return
	}
	defer slave.Close()
	if rc, err := slave.SyscallConn(); err == nil {
		_ = sys.ReleasePTY(rc)
	}
}

// MakeRaw sets a terminal that the caller has open to raw mode: every byte
// passes as it is. A guest does that before it uses its end of a channel.
func MakeRaw(tty *os.File) error {
	rc, err := tty.SyscallConn()
	if err != nil {
		return fmt.Errorf("pty: raw mode of %s: %w", tty.Name(), err)
	}
	t, err := sys.GetTermios(rc)
	if err == nil {
		err = sys.SetTermios(rc, sys.RawTermios(t))
	}
	if err != nil {
		return fmt.Errorf("pty: raw mode of %s: %w", tty.Name(), err)
	}
	return nil
}

package pty

import (
	"errors"
	"fmt"
	"os"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/internal/sys"
)

// Handle is one more descriptor of the master. While somebody keeps it, those who
// have the slave open see no hang-up, and bytes stay where they are.
func (e *Endpoint) Handle() (*sys.Handle, error) { return sys.Duplicate(e.rc) }

// Leave is Close: a terminal is in the file system for as long as its master is kept.
func (e *Endpoint) Leave() error { return e.Close() }

// Restore fails: clients of a terminal are not kept one by one.
func (e *Endpoint) Restore(h *sys.Handle) (endpoint.Client, error) {
	_ = h.Close()
	return nil, fmt.Errorf("pty: %s: %w", e.path, errors.ErrUnsupported)
}

// Adopt goes on serving a terminal that another process has left, with the line
// mode of cfg. It owns the handle, also when it fails.
func Adopt(cfg Config, h *sys.Handle) (*Endpoint, error) {
	defer h.Close()
	file, err := h.File("/dev/ptmx")
	if err != nil {
		return nil, fmt.Errorf("pty: %w", err)
	}
	// Who has the slave open may have used it since it was made tidy last.
	e := &Endpoint{file: file, changed: make(chan struct{}), used: true}
	if err := e.takeOver(cfg); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("pty: go on with a terminal: %w", err)
	}
	e.look()
	return e, nil
}

func (e *Endpoint) takeOver(cfg Config) (err error) {
	if err = e.locate(); err != nil {
		return err
	}
	if _, err := os.Stat(e.path); err != nil {
		return err
	}
	if e.line, err = sys.GetTermios(e.rc); err != nil {
		return err
	}
	if cfg.Line == Raw {
		e.line = sys.RawTermios(e.line)
	}
	return presence.add(e)
}

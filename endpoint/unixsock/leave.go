package unixsock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/internal/sys"
)

// Close stops listening and removes the socket, unless something else has that
// path by now. Clients that were not accepted see a reset connection.
func (e *Endpoint) Close() error {
	e.closeOnce.Do(func() {
		// While we listen the file's number cannot belong to another file.
		err := e.unlink()
		e.closeErr = errors.Join(err, e.ln.Close())
	})
	return e.closeErr
}

func (e *Endpoint) unlink() error {
	parent, name := filepath.Split(e.path)
	dir, err := sys.OpenDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unixsock: %w", err)
	}
	defer dir.Close()
	info, err := dir.Stat(name)
	if err == nil && info.ID == e.id {
		err = dir.Remove(name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unixsock: %w", err)
	}
	return nil
}

// Leave stops listening here. The socket stays where it is, and whoever holds a
// Handle of it has the clients that come.
func (e *Endpoint) Leave() error {
	e.closeOnce.Do(func() { e.closeErr = e.ln.Close() })
	return e.closeErr
}

// Handle is one more descriptor of the listening socket.
func (e *Endpoint) Handle() (*sys.Handle, error) {
	rc, err := e.Listener()
	if err != nil {
		return nil, err
	}
	return sys.Duplicate(rc)
}

// ID is the socket's number in the file system. Adopt wants it.
func (e *Endpoint) ID() sys.FileID { return e.id }

// Adopt goes on listening on a socket that another process has left. It fails
// if that is not what is at the path any more. It owns the handle, also when it fails.
func Adopt(cfg Config, h *sys.Handle, id sys.FileID) (*Endpoint, error) {
	e, err := adopt(cfg, h, id)
	if err != nil {
		return nil, fmt.Errorf("unixsock: go on listening on %q: %w", cfg.Path, err)
	}
	return e, nil
}

func adopt(cfg Config, h *sys.Handle, id sys.FileID) (*Endpoint, error) {
	defer h.Close()
	parent, name := filepath.Split(cfg.Path)
	dir, err := sys.OpenDir(parent)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	info, err := dir.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.ID != id {
		return nil, errors.New("something else is there")
	}
	f, err := h.File(cfg.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // FileListener makes its own duplicate
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	ln, ok := l.(*net.UnixListener)
	if !ok {
		_ = l.Close()
		return nil, fmt.Errorf("a %s socket was kept, not a unix one", l.Addr().Network())
	}
	ln.SetUnlinkOnClose(false)
	return &Endpoint{path: cfg.Path, ln: ln, id: id, admit: cfg.Admit}, nil
}

// Restore makes a client of a connection that another process has left. Whether it
// may come in was decided when it was accepted.
func (e *Endpoint) Restore(h *sys.Handle) (endpoint.Client, error) {
	conn, err := sys.UnixConn(h)
	if err != nil {
		return nil, fmt.Errorf("unixsock: client of %s: %w", e.path, cause(err))
	}
	c, err := e.newClient(conn)
	if err != nil {
		return nil, fmt.Errorf("unixsock: client of %s: %w", e.path, cause(err))
	}
	return c, nil
}

// Handle is one more descriptor of the connection.
func (c *Client) Handle() (*sys.Handle, error) { return sys.Duplicate(c.rc) }

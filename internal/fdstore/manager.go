package fdstore

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/xenchan/xenchan/internal/sys"
)

// Manager is a service manager as far as this package needs one: it keeps the
// descriptors of one service and gives them to each process of it, as systemd does.
type Manager struct {
	path string
	conn *net.UnixConn
	done chan struct{}

	mu    sync.Mutex
	kept  []keptFD                 // guarded by mu
	marks map[string]chan struct{} // by the message that closes it; guarded by mu
}

type keptFD struct {
	name string
	h    *sys.Handle
}

// maxKept bounds what a service can have kept, as FileDescriptorStoreMax= does.
const maxKept = 16384

// NewManager listens for the service's messages on a socket at path, in place of one
// that a manager has left behind that was killed.
func NewManager(path string) (*Manager, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen for a service: %w", err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen for a service: %w", err)
	}
	m := &Manager{path: path, conn: conn, done: make(chan struct{}), marks: make(map[string]chan struct{})}
	if err := os.Chmod(path, 0o600); err != nil {
		conn.Close()
		return nil, err
	}
	go m.listen()
	return m, nil
}

// Equip makes a command the service's next process, which gets all that the last
// one has left. It must not be called before the last one has ended; started is to be
// called once the command was started, or could not be.
func (m *Manager) Equip(cmd *exec.Cmd) (started func(), err error) {
	if err := m.catchUp(); err != nil {
		return nil, err
	}
	// A process is told that descriptors are for it by its own number, which
	// nobody knows before it is there.
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, k := range m.kept {
		f, err := k.h.File(k.name)
		if err != nil {
			closeAll(cmd.ExtraFiles)
			return nil, err
		}
		names = append(names, k.name)
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+m.path,
		"LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	return func() { closeAll(cmd.ExtraFiles) }, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// catchUp waits until all that the last process has sent is taken in, with a
// message of our own behind it.
func (m *Manager) catchUp() error {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	mark, seen := fmt.Sprintf("X_MARK=%p", c), make(chan struct{})
	m.mu.Lock()
	m.marks[mark] = seen
	m.mu.Unlock()
	if _, err := c.Write([]byte(mark)); err != nil {
		return err
	}
	select {
	case <-seen:
		return nil
	case <-m.done:
		return os.ErrClosed
	}
}

// listen is the Manager's goroutine; Close joins it.
func (m *Manager) listen() {
	defer close(m.done)
	buf := make([]byte, 4096)
	for {
		n, hs, err := sys.RecvMsg(m.conn, buf, sys.MaxPassed)
		if err != nil && n == 0 {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		m.take(buf[:n], hs)
	}
}

// take follows one message. What it does not know it ignores, as systemd does.
func (m *Manager) take(message []byte, hs []*sys.Handle) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if seen := m.marks[string(message)]; seen != nil {
		close(seen)
		delete(m.marks, string(message))
	}
	said := parse(message)
	switch name := said["FDNAME"]; {
	case said["FDSTORE"] == "1" && validName(name) && len(m.kept)+len(hs) <= maxKept:
		for _, h := range hs {
			m.kept = append(m.kept, keptFD{name, h})
		}
		return
	case said["FDSTOREREMOVE"] == "1":
		m.kept = slices.DeleteFunc(m.kept, func(k keptFD) bool {
			if k.name == name {
				_ = k.h.Close()
			}
			return k.name == name
		})
	}
	sys.CloseAll(hs)
}

// parse takes a message of lines KEY=VALUE apart.
func parse(message []byte) map[string]string {
	said := make(map[string]string)
	for lines := bufio.NewScanner(bytes.NewReader(message)); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), "="); ok {
			said[key] = value
		}
	}
	return said
}

// validName holds a name to the rules of sd_notify(3).
func validName(name string) bool {
	return name != "" && len(name) <= 255 &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 127 || r == ':' })
}

// Kept is the names of what is kept.
func (m *Manager) Kept() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := make([]string, len(m.kept))
	for i, k := range m.kept {
		names[i] = k.name
	}
	return names
}

// Close lets go of all that is kept. The service must have ended. Closing again does
// nothing.
func (m *Manager) Close() error {
	err := m.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	<-m.done
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.kept {
		_ = k.h.Close()
	}
	m.kept = nil
	return errors.Join(err, os.Remove(m.path))
}

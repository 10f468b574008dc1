// Package fdstore keeps descriptors with the service manager while a service is
// started again, however it ended: sockets, terminals and clients of a daemon that
// is killed find the next one in its place. It is systemd's file descriptor store
// (sd_pid_notify_with_fds(3), FDSTORE=1; sd_listen_fds(3)), and for hosts without
// systemd and for tests an equivalent of the manager's side, [Manager].
//
// A descriptor is kept from the moment at which Keep returns: the message with it
// is in the manager's queue then, which the end of this process does not touch.
package fdstore

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/xenchan/xenchan/internal/sys"
)

// Store is the service's side. A nil Store, or one without a manager, keeps nothing.
type Store struct {
	conn    *net.UnixConn
	manager *net.UnixAddr // nil without a manager

	mu sync.Mutex
	// kept is what the manager keeps, by name: nil but for what it has given this
	// process and nobody has claimed yet. Guarded by mu.
	kept  map[string]*sys.Handle
	names int // bytes of the names, with one more for each; guarded by mu
}

// Inherit takes what the manager has given this process, and finds the manager. It
// may be called once in a process.
func Inherit() (*Store, error) {
	s := &Store{kept: make(map[string]*sys.Handle)}
	var errs []error
	for _, f := range activation.Files(true) {
		h, err := duplicate(f)
		errs = append(errs, err, f.Close())
		if err == nil {
			s.kept[f.Name()] = h
			s.names += len(f.Name()) + 1
		}
	}
	if path := os.Getenv("NOTIFY_SOCKET"); path != "" {
		// A path, or @ and a name in the abstract namespace; the net package
		// knows both.
		s.manager = &net.UnixAddr{Name: path, Net: "unixgram"}
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
		errs = append(errs, err)
		s.conn = c
	}
	if err := errors.Join(errs...); err != nil {
		s.Close()
		return nil, fmt.Errorf("descriptors that the service manager keeps: %w", err)
	}
	return s, nil
}

func duplicate(f *os.File) (*sys.Handle, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	return sys.Duplicate(rc)
}

// Keeps says whether descriptors outlive this process.
func (s *Store) Keeps() bool { return s != nil && s.manager != nil }

// mostNames is how many bytes the names may have together, with one more for each: the
// next process gets them in one variable of its environment, for which Linux has 128
// KiB, and it could not be started with more (execve(2)).
const mostNames = 127 << 10

// ErrFull says that the next process could not be told of more descriptors.
var ErrFull = errors.New("the names of what is kept have no more room in the environment of the next process")

// Keep has the manager keep a descriptor under a name of its own: at most 255
// visible ASCII characters but the colon. The handle stays the caller's.
func (s *Store) Keep(name string, h *sys.Handle) error {
	if !s.Keeps() {
		return nil
	}
	if !s.enter(name) {
		return ErrFull
	}
	// The manager would drop a terminal that nobody has open, and a client that
	// has left while what it said is not read yet, as both are hung up.
	return s.tell("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, h)
}

// enter notes a name, if there is room for it.
func (s *Store) enter(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.kept[name]; !known {
		if s.names+len(name)+1 > mostNames {
			return false
		}
		s.names += len(name) + 1
	}
	s.kept[name] = nil
	return true
}

// Forget has the manager close what it keeps under a name.
func (s *Store) Forget(name string) error {
	if h := s.Claim(name); h != nil {
		_ = h.Close()
	}
	if !s.Keeps() {
		return nil
	}
	s.mu.Lock()
	if _, known := s.kept[name]; known {
		delete(s.kept, name)
		s.names -= len(name) + 1
	}
	s.mu.Unlock()
	return s.tell("FDSTOREREMOVE=1\nFDNAME=" + name)
}

func (s *Store) tell(message string, pass ...*sys.Handle) error {
	if err := sys.SendMsgTo(s.conn, s.manager, []byte(message), pass...); err != nil {
		return fmt.Errorf("tell the service manager %q: %w", strings.ReplaceAll(message, "\n", " "), err)
	}
	return nil
}

// Claim takes what was kept under a name for this process, nil if nothing was. The
// manager keeps it all the same, until it is told to forget it.
func (s *Store) Claim(name string) *sys.Handle {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.kept[name]
	if h != nil {
		s.kept[name] = nil
	}
	return h
}

// Names is what the manager keeps, sorted.
func (s *Store) Names() []string {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.kept))
}

// Close lets go of the manager and of what was not claimed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, h := range s.kept {
		if h != nil {
			_ = h.Close()
		}
		delete(s.kept, name)
	}
	if s.conn == nil {
		return nil
	}
	return s.conn.Close()
}

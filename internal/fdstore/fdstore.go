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
	kept map[string]*sys.Handle
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

// Keep has the manager keep a descriptor under a name of its own: at most 255
// visible ASCII characters but the colon. The handle stays the caller's.
func (s *Store) Keep(name string, h *sys.Handle) error {
	if !s.Keeps() {
		return nil
	}
	s.mu.Lock()
	s.kept[name] = nil
	s.mu.Unlock()
	// The manager would drop a terminal that nobody has open, and a client that
	// has left while what it said is not read yet, as both are hung up.
	return s.tell("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, h)
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
	delete(s.kept, name)
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

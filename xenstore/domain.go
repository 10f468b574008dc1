package xenstore

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore/wire"
)

var errReset = errors.New("the watches of this connection were reset")

// DomainPath is the home path of a domain, such as /local/domain/5. The domain
// need not exist.
func (s *Store) DomainPath(ctx context.Context, dom xen.DomID) (string, error) {
	payload, err := s.call(ctx, wire.GetDomainPath, dom.String(), wire.JoinNUL(dom.String()))
	if err != nil {
		return "", err
	}
	path := strings.TrimSuffix(string(payload), "\x00")
	if ValidPath(path) != nil {
		return "", malformed(wire.GetDomainPath, dom.String(), payload)
	}
	return path, nil
}

// IsIntroduced reports whether the daemon talks to a domain, which it does from
// its introduction until its release.
func (s *Store) IsIntroduced(ctx context.Context, dom xen.DomID) (bool, error) {
	payload, err := s.call(ctx, wire.IsDomainIntroduced, dom.String(), wire.JoinNUL(dom.String()))
	if err != nil {
		return false, err
	}
	switch string(payload) {
	case "T\x00":
		return true, nil
	case "F\x00":
		return false, nil
	}
	return false, malformed(wire.IsDomainIntroduced, dom.String(), payload)
}

// Introduce tells the daemon to talk to a new domain through the page gfn, a
// guest frame number, and the domain's event channel port. It is for toolstacks.
func (s *Store) Introduce(ctx context.Context, dom xen.DomID, gfn uint64, port xen.Port) error {
	_, err := s.call(ctx, wire.Introduce, dom.String(),
		wire.JoinNUL(dom.String(), strconv.FormatUint(gfn, 10), port.String()))
	return err
}

// Release tells the daemon to forget a domain. It is for toolstacks.
func (s *Store) Release(ctx context.Context, dom xen.DomID) error {
	_, err := s.call(ctx, wire.Release, dom.String(), wire.JoinNUL(dom.String()))
	return err
}

// ResetWatches ends all watches and all transactions of this connection. On the
// xenbus device it fails, because there it would end the kernel's own watches.
func (s *Store) ResetWatches(ctx context.Context) error {
	if s.c.device {
		return &Error{
			Op: wire.ResetWatches, Errno: syscall.EOPNOTSUPP,
			Detail: "the xenbus device shares its watches with the kernel's drivers",
		}
	}
	s.c.mu.Lock()
	watches := maps.Clone(s.c.watches)
	s.c.mu.Unlock()
	if _, err := s.call(ctx, wire.ResetWatches, "", wire.JoinNUL("")); err != nil {
		return err
	}
	for token, w := range watches {
		s.c.removeWatch(token)
		w.end(errReset)
	}
	return nil
}

// Control sends a command for the daemon itself and returns its answer; "help"
// lists the commands of the daemon at hand.
func (s *Store) Control(ctx context.Context, args ...string) (string, error) {
	if len(args) == 0 || slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, "\x00") }) {
		return "", &Error{
			Op: wire.Control, Errno: syscall.EINVAL,
			Detail: "a command is one or more strings without NUL",
		}
	}
	payload, err := s.call(ctx, wire.Control, "", wire.JoinNUL(args...))
	return strings.TrimSuffix(string(payload), "\x00"), err
}

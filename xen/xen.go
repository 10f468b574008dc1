// Package xen names what a hypervisor gives to a domain: the xenstore stream,
// event channels and grants. Two packages implement [Hypervisor]: xendev on the
// device files of real Xen, xensim on an embedded hypervisor in user space. The
// suite in xentest holds both to the same behaviour, and nothing above this seam
// knows which of them it runs on.
package xen

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"
)

// PageSize is the size in bytes of a granted page. It is 4096 on every
// architecture, also where the kernel's own pages are larger.
const PageSize = 4096

// DomID is the number of a domain. Domain 0 is the control domain; numbers from
// [FirstReserved] on have special meanings and never name a guest
// (xen.h, DOMID_FIRST_RESERVED).
type DomID uint16

// FirstReserved is the first domid that no guest can have.
const FirstReserved DomID = 0x7ff0

// ParseDomID reads a decimal domid below [FirstReserved].
func ParseDomID(s string) (DomID, error) {
	n, err := parseDecimal(s, 16)
	if err != nil || DomID(n) >= FirstReserved {
		return 0, fmt.Errorf("domid %q is not a number from 0 to %d", s, FirstReserved-1)
	}
	return DomID(n), nil
}

// String is the decimal form that xenstore paths use.
func (d DomID) String() string { return strconv.FormatUint(uint64(d), 10) }

// GrantRef is an index into the granting domain's grant table.
type GrantRef uint32

// ParseGrantRef reads the decimal form in which a frontend publishes a grant reference.
func ParseGrantRef(s string) (GrantRef, error) {
	n, err := parseDecimal(s, 32)
	if err != nil {
		return 0, fmt.Errorf("grant reference %q is not a decimal number below 2^32", s)
	}
	return GrantRef(n), nil
}

// String is the decimal form that a frontend publishes in xenstore.
func (r GrantRef) String() string { return strconv.FormatUint(uint64(r), 10) }

// Port is one domain's end of an event channel. Port 0 is never valid.
type Port uint32

// ParsePort reads the decimal form in which a frontend publishes a port.
func ParsePort(s string) (Port, error) {
	n, err := parseDecimal(s, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("event channel port %q is not a decimal number from 1 to 2^32-1", s)
	}
	return Port(n), nil
}

// String is the decimal form that a frontend publishes in xenstore.
func (p Port) String() string { return strconv.FormatUint(uint64(p), 10) }

// parseDecimal accepts digits alone: peers write these values, so signs, spaces
// and underscores are refused.
func parseDecimal(s string, bits int) (uint64, error) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, strconv.ErrSyntax
		}
	}
	return strconv.ParseUint(s, 10, bits)
}

// Hypervisor is one domain's access to its hypervisor. All methods are safe for
// concurrent use. What they return stays valid until it is closed itself or the
// Hypervisor is closed; a failure of the hypervisor carries a [syscall.Errno].
type Hypervisor interface {
	// OpenStore opens a new stream of xenstore messages as this domain. Close
	// on the stream wakes a blocked Read or Write.
	OpenStore(ctx context.Context) (io.ReadWriteCloser, error)

	// BindInterdomain binds a new local port to a port that remote has
	// allocated for this domain (a backend's side). The new port is pending at
	// once. It fails with EINVAL when the remote port is not one that waits
	// for this domain, and with ESRCH when there is no such domain.
	BindInterdomain(remote DomID, port Port) (EventChannel, error)

	// AllocUnbound allocates a local port that remote may bind (a frontend's side).
	AllocUnbound(remote DomID) (EventChannel, error)

	// MapGrants maps pages that remote has granted to this domain, readable
	// and writable, one after the other in memory. A reference that remote has
	// not granted to us fails with EINVAL.
	MapGrants(remote DomID, refs ...GrantRef) (Pages, error)

	// SharePages allocates n zeroed pages and grants them to remote.
	SharePages(remote DomID, n int) (SharedPages, error)

	// Close ends the access: every port, mapping and grant of it goes.
	Close() error
}

// EventChannel is one bound or unbound local port. Events have no content and
// do not queue: any number of notifications before a turn are one event.
type EventChannel interface {
	// Port is the local port.
	Port() Port

	// Notify sends an event to the other end. Without another end it does nothing.
	Notify() error

	// Serve says what is to be done about events. It is called once; an event that
	// came earlier is pending. All channels of a Hypervisor take their turns in one
	// goroutine: so a turn must not block for long, and must not Close a channel.
	Serve(turn Turn)

	// Unmask ends a rest that is [Masked], and does nothing else.
	Unmask() error

	// Close closes this end. Its turn does not run any more when Close returns. The
	// other end becomes unbound and may be bound again by the same domain.
	Close() error
}

// Turn serves one event. The port is masked from the event to the end of the turn
// and then for as long as it rests: an event that comes meanwhile is not lost, it
// makes one further turn. After a rest above zero there is a turn in any case; a
// rest of [Masked] is until Unmask. With an error there are no more events, and this
// was the last turn.
type Turn func(err error) (rest time.Duration)

// Masked, as the rest of a [Turn], lets no event in before Unmask.
const Masked time.Duration = -1

// Pages is memory shared with another domain. The other domain may change it
// at any moment.
type Pages interface {
	// Bytes is the memory. It must not be touched after Close.
	Bytes() []byte
	// Close unmaps the memory.
	Close() error
}

// SharedPages is memory of this domain that is granted to another one.
type SharedPages interface {
	Pages
	// Refs are the grant references, one a page.
	Refs() []GrantRef
}

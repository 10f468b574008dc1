// Package storetest is the suite that every xenstore daemon of this project, and
// the daemons of Xen, must pass. It speaks the raw protocol, so it sees exact
// replies, error names and the order of events.
//
// It needs a connection with the rights of domain 0, as the daemon's unix socket
// gives. (Through /dev/xen/xenbus the kernel answers a part of the protocol
// itself and limits the payload; that is not what is tested here.) Everything it
// writes is below one directory of its own, /tool/xenchan-test-N, which it
// removes at the end, so that it can run inside a live domain 0.
//
// Its expectations were found by running Debian's C xenstored 4.17.
package storetest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// Flavour is the family of the daemon under test, where families differ.
type Flavour int

const (
	// C is xenstored, and whatever behaves like it.
	C Flavour = iota
	// OCaml is oxenstored: sorted directories, large replies instead of E2BIG, no
	// DIRECTORY_PART, EIO for an unknown transaction, quota errors of its own.
	OCaml
)

// Harness gives access to the daemon under test. Subtests that need an optional
// capability which is nil are not registered.
type Harness struct {
	Flavour Flavour

	// Open opens another connection with the rights of domain 0.
	Open func(t *testing.T) io.ReadWriteCloser

	// Guest, if not nil, makes an unprivileged domain, introduces it, and opens
	// a connection of it. The domain needs no nodes of its own. It goes when t ends.
	Guest func(t *testing.T) (xen.DomID, io.ReadWriteCloser)

	// Release, if not nil, ends a domain that Guest made. It returns when the
	// daemon has been told.
	Release func(t *testing.T, dom xen.DomID)
}

// suite is a harness with what the subtests share.
type suite struct {
	Harness
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	s := suite{h}
	groups := []struct {
		name    string
		present bool
		cases   map[string]func(*testing.T, suite)
	}{
		{"nodes", true, nodeCases},
		{"paths", true, pathCases},
		{"messages", true, messageCases},
		{"transactions", true, txCases},
		{"watches", true, watchCases},
		{"c", h.Flavour == C, cCases},
		{"ocaml", h.Flavour == OCaml, ocamlCases},
		{"guest", h.Guest != nil, guestCases},
		{"guest-c", h.Guest != nil && h.Flavour == C, guestCCases},
		{"release", h.Guest != nil && h.Release != nil, releaseCases},
	}
	for _, g := range groups {
		if !g.present {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			for name, run := range g.cases {
				t.Run(name, func(t *testing.T) { run(t, s) })
			}
		})
	}
}

// open is a new connection of domain 0, closed when t ends.
func (s suite) open(t *testing.T) *client { return newClient(t, s.Open(t), "domain 0") }

// dir makes an empty directory for one subtest, removed when t ends, and the
// connection that made it.
func (s suite) dir(t *testing.T) (*client, string) {
	t.Helper()
	c := s.open(t)
	dir := fmt.Sprintf("/tool/xenchan-test-%d", rand.Uint32())
	c.ok(wire.Mkdir, dir+"\x00")
	t.Cleanup(func() { c.ok(wire.Rm, dir+"\x00") })
	return c, dir
}

// guest is an unprivileged domain.
type guest struct {
	*client
	dom  xen.DomID
	home string // a directory that it owns, inside the directory of the subtest
}

// guest makes an unprivileged domain and a directory that it owns.
func (s suite) guest(t *testing.T, c *client, dir string) guest {
	t.Helper()
	dom, stream := s.Guest(t)
	g := guest{newClient(t, stream, "domain "+dom.String()), dom, dir + "/home" + dom.String()}
	g.window = 1 // a real guest's kernel mixes up the replies of requests that come together
	c.ok(wire.Mkdir, g.home+"\x00")
	c.ok(wire.SetPerms, fmt.Sprintf("%s\x00n%d\x00", g.home, dom))
	return g
}

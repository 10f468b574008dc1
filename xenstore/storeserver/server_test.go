package storeserver

import (
	"io"
	"net"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newServer is a server on a unix socket, closed when t ends.
func newServer(t testing.TB) (*Server, string) {
	t.Helper()
	s := New(Config{})
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != ErrClosed {
			t.Errorf("Serve = %v, want ErrClosed", err)
		}
	})
	return s, path
}

// pipe connects a domain to the server in memory.
func pipe(s *Server, dom xen.DomID) net.Conn {
	ours, theirs := net.Pipe()
	go s.ServeConn(theirs, dom) // joined by Server.Close
	return ours
}

func TestServer_conformance(t *testing.T) {
	s, path := newServer(t)
	next := xen.DomID(10)
	storetest.Run(t, storetest.Harness{
		Open: func(t *testing.T) io.ReadWriteCloser {
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			return c
		},
		Guest: func(t *testing.T) (xen.DomID, io.ReadWriteCloser) {
			next++
			dom := next
			if err := s.IntroduceDomain(dom); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.ReleaseDomain(dom) })
			return dom, pipe(s, dom)
		},
		Release: func(t *testing.T, dom xen.DomID) {
			if err := s.ReleaseDomain(dom); err != nil {
				t.Fatal(err)
			}
		},
	})
}

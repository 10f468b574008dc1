package storeserver

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// FuzzConn feeds what an unprivileged client and a privileged one may send, and
// checks that the store stays whole, the quotas hold, and the server answers.
func FuzzConn(f *testing.F) {
	script := func(ms ...wire.Message) (b []byte) {
		for _, m := range ms {
			b = wire.Append(b, m)
		}
		return b
	}
	m := func(typ wire.Type, tx uint32, payload string) wire.Message {
		return wire.Message{Type: typ, ReqID: 1, TxID: tx, Payload: []byte(payload)}
	}
	f.Add(script(m(wire.Write, 0, "/g/a/b\x00v"), m(wire.Watch, 0, "/g\x00t\x00"), m(wire.Rm, 0, "/g/a\x00")), false)
	f.Add(script(m(wire.TransactionStart, 0, "\x00"), m(wire.Write, 1, "/g/a\x00v"), m(wire.Rm, 1, "/g\x00"),
		m(wire.Mkdir, 1, "/g/a/c\x00"), m(wire.TransactionEnd, 1, "T\x00"), m(wire.TransactionEnd, 1, "T\x00")), true)
	f.Add(script(m(wire.SetPerms, 0, "/g\x00n5\x00r0\x00"), m(wire.GetPerms, 0, "/g\x00"), m(wire.ResetWatches, 0, "\x00"),
		m(wire.DirectoryPart, 0, "/\x003\x00"), m(wire.Control, 0, "print\x00x\x00")), false)
	f.Add(script(m(wire.Introduce, 0, "5\x001\x001\x00"), m(wire.Release, 0, "5\x00"), m(wire.SetTarget, 0, "5\x005\x00")), true)
	f.Add(append(script(m(wire.Read, 0, "/\x00")), 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255), false)
	f.Fuzz(func(t *testing.T, data []byte, privileged bool) {
		s := New(Config{Quota: Quota{Nodes: 10}})
		defer s.Close()
		good := pipe(s, 0)
		defer good.Close()
		must(t, good, wire.Mkdir, "/g\x00")
		must(t, good, wire.SetPerms, "/g\x00n5\x00")
		bad, theirs := net.Pipe()
		done := make(chan struct{}, 2)
		go func() {
			s.ServeConn(theirs, map[bool]xen.DomID{true: 0, false: 5}[privileged])
			done <- struct{}{}
		}()
		go func() {
			io.Copy(io.Discard, bad)
			done <- struct{}{}
		}()
		bad.SetWriteDeadline(time.Now().Add(10 * time.Second))
		bad.Write(data)
		bad.Close()
		<-done
		<-done
		must(t, good, wire.Write, "/tool/alive\x00")
		checkTree(t, s, !privileged)
	})
}

// checkTree checks that every node is in its parent's list exactly once, that
// the accounts are right, and that a guest did not go over its quota.
func checkTree(t testing.TB, s *Server, guestBound bool) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := 0
	sums := make(map[uint16]usage)
	var walk func(path string)
	walk = func(path string) {
		n := s.tree.nodes[path]
		if n == nil {
			t.Errorf("%s is listed and does not exist", path)
			return
		}
		seen++
		account(sums, n, 1)
		for _, name := range n.children {
			walk(join(path, name))
		}
	}
	walk("/")
	if seen != len(s.tree.nodes) {
		t.Errorf("%d nodes can be reached, %d exist", seen, len(s.tree.nodes))
	}
	for dom, sum := range sums {
		if s.tree.by[dom] != sum {
			t.Errorf("domain %d is charged %v for %v", dom, s.tree.by[dom], sum)
		}
	}
	if len(sums) != len(s.tree.by) {
		t.Errorf("%d owners, %d accounts", len(sums), len(s.tree.by))
	}
	if guestBound && sums[5].nodes > s.quota.Nodes {
		t.Errorf("the guest owns %d nodes, its quota is %d", sums[5].nodes, s.quota.Nodes)
	}
}

// Package storeserver is an embedded xenstored: the store, its permissions,
// transactions, watches and quotas, spoken over any stream. It answers as the C
// xenstored of Xen 4.17 does, error by error, so that what works against it works
// on a real host; the suite in storetest is run against both.
//
// The protocol is that of docs/misc/xenstore.txt and io/xs_wire.h.
//
// Design. One mutex guards the store, the domains, the watches and every
// connection's state, so requests run one after the other. Nodes are immutable
// and live in one map by path; a transaction is a second map laid over the first,
// which remembers the version of each node that it touched. Replies and events
// go through a bounded queue for each connection with a writer of its own:
// nobody who does not read can hold up the others.
package storeserver

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// ErrClosed is what Serve and ServeConn return when the server is closed.
var ErrClosed = errors.New("xenstore server closed")

// Quota limits what an unprivileged domain may hold. A zero field means the
// default of C xenstored 4.17, which is given with each field.
type Quota struct {
	Nodes          int // nodes owned by the domain: 1000
	NodeSize       int // bytes of a node's record: value, child names, permissions: 2048
	Memory         int // bytes of all nodes owned, and of output queued for a connection: 2.5 MiB
	Perms          int // permission entries of a node: 5
	Watches        int // watches of the domain, on top of a first one: 128
	Transactions   int // open transactions of the domain, on top of a first one: 10
	TransactionOps int // nodes touched in one transaction: 1024
	Outstanding    int // requests of the domain not yet finished: 20
	PathMax        int // bytes of a path below /local/domain/N/; holds for everybody: 2048
}

// withDefaults fills in the fields that are zero.
func (q Quota) withDefaults() Quota {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&q.Nodes, 1000)
	def(&q.NodeSize, 2048)
	def(&q.Memory, 5<<19)
	def(&q.Perms, 5)
	def(&q.Watches, 128)
	def(&q.Transactions, 10)
	def(&q.TransactionOps, 1024)
	def(&q.Outstanding, 20)
	def(&q.PathMax, 2048)
	return q
}

// Config sets up a server. The zero value is useful.
type Config struct {
	Quota  Quota
	Logger *slog.Logger // nil discards
}

// Server is a xenstore daemon. All methods are safe for concurrent use.
type Server struct {
	quota Quota
	log   *slog.Logger
	wg    sync.WaitGroup // every ServeConn and Serve in progress

	// mu guards all below, the domains, and of each connection its watches and
	// transactions. It is taken before the lock of a queue or of a budget.
	mu        sync.Mutex
	tree      *tree
	domains   map[xen.DomID]*domain
	special   map[string]wire.Perms // of @introduceDomain and @releaseDomain
	watches   map[string][]*watch   // by absolute path
	watchSeq  uint64
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
	closed    bool
}

// New makes a server with a store that holds /tool/xenstored and nothing else.
// Domain 0 is introduced.
func New(cfg Config) *Server {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	dom0 := wire.Perms{{Access: wire.AccessNone, DomID: 0}}
	s := &Server{
		quota:     cfg.Quota.withDefaults(),
		log:       log,
		tree:      newTree(),
		domains:   make(map[xen.DomID]*domain),
		special:   map[string]wire.Perms{introduceDomain: dom0, releaseDomain: dom0},
		watches:   make(map[string][]*watch),
		conns:     make(map[*conn]struct{}),
		listeners: make(map[net.Listener]struct{}),
	}
	s.tree.put("/", &node{perms: dom0, children: []string{"tool"}})
	s.tree.put("/tool", &node{perms: dom0, children: []string{"xenstored"}})
	s.tree.put("/tool/xenstored", &node{perms: dom0})
	s.domain(0).introduced = true
	return s
}

// Serve accepts connections until the listener or the server is closed. Each
// peer acts as domain 0: access to the socket is access to everything, so it
// must be protected by its file mode. Serve closes the listener.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.wg.Add(1)
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer s.wg.Done()
	for {
		stream, err := l.Accept()
		s.mu.Lock()
		closed := s.closed
		if err != nil {
			delete(s.listeners, l)
		} else if !closed {
			s.wg.Add(1)
		}
		s.mu.Unlock()
		switch {
		case closed:
			if err == nil {
				stream.Close()
			}
			return ErrClosed
		case err != nil:
			return err
		}
		go func() { // joined by Close through wg; its stop is the stream's Close
			defer s.wg.Done()
			s.ServeConn(stream, 0)
		}()
	}
}

// ServeConn speaks with one client until it goes, misbehaves, or the server or
// its domain is closed. Domain 0 is privileged; any other is bound by
// permissions and quotas, and its relative paths are below /local/domain/N/.
// It closes the stream. The error is nil when the client closed the stream
// between two messages.
func (s *Server) ServeConn(stream io.ReadWriteCloser, dom xen.DomID) error {
	c, err := s.attach(stream, dom)
	if err != nil {
		stream.Close()
		return err
	}
	defer s.wg.Done()
	var writer sync.WaitGroup
	writer.Go(func() { c.write() }) // stopped by drop, joined below
	err = c.read()
	c.drop()
	writer.Wait()
	s.detach(c)
	if errors.Is(err, io.EOF) {
		return nil
	}
	s.log.LogAttrs(context.Background(), slog.LevelDebug, "xenstore connection ended",
		slog.Any("domain", dom), slog.Any("err", err))
	return err
}

// attach registers a connection.
func (s *Server) attach(stream io.ReadWriteCloser, dom xen.DomID) (*conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	c := newConn(s, stream, s.domain(dom))
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	return c, nil
}

// detach forgets a connection with its watches and transactions.
func (s *Server) detach(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reset(c)
	delete(s.conns, c)
}

// reset drops all watches and transactions of a connection. The caller holds mu.
func (s *Server) reset(c *conn) {
	for key := range c.watches {
		s.removeWatch(c, key)
	}
	c.dom.txs -= len(c.txs)
	clear(c.txs)
}

// Close ends all connections and listeners and waits for their goroutines.
// The store is gone with the server.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		c.drop()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

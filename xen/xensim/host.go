// Package xensim is an embedded hypervisor: domains, grants and event channels
// that work between the processes of any Linux machine, with Xen's semantics
// and without Xen.
//
// A host lives in a directory. [Start] serves it: DIR/xen.sock is the
// hypervisor and DIR/xenstored.sock the privileged socket of its xenstore.
// [Connect] gives another process, or the same one, a [xen.Hypervisor] as one
// of the host's domains. Memory is shared through sealed memfds and events
// are noted in such memory too, with an eventfd to wake who sleeps. The host makes
// both and passes them; so it takes no part in moving data, and a process may be
// killed at any moment without harm to the others.
//
// What a process gets through a connection goes with it. A guest whose last
// connection ends has crashed. The kernel tells the host which user a peer is
// (SO_PEERCRED), and that decides which domains it may be. Between domains the
// guarantees are Xen's, with one exception: an eventfd and the memory for events are
// shared, so a hostile peer can delay a Notify to itself, or lose the events of the
// channels between the two domains.
package xensim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/storeserver"
)

const (
	xenSocket   = "xen.sock"
	storeSocket = "xenstored.sock"
	lockFile    = "xen.lock"
	// maxPerUser is how many connections one user may have at once; beyond
	// it they are closed, so that no user can shut out another.
	maxPerUser = 1024
)

// Config is how a host differs from the usual.
type Config struct {
	// Store is for the host's xenstore.
	Store storeserver.Config
	// Fault, if set, is called before each hypercall of a domain; an error
	// that it returns is the hypercall's result. It runs on the goroutine
	// of the calling connection and may delay that. For tests.
	Fault func(op Op, dom xen.DomID) error
}

// Host is a running embedded hypervisor.
type Host struct {
	dir     string
	cfg     Config
	uid     uint32
	store   *storeserver.Server
	nodes   nodes
	lock    *os.File
	ln      *net.UnixListener
	storeLn *net.UnixListener
	done    chan struct{}  // closed by Close
	clients sync.WaitGroup // accept loop and sessions
	wg      sync.WaitGroup // goroutines that serve the store

	// adminMu is held while a domain is made or ended. It comes before mu.
	adminMu sync.Mutex

	mu       sync.Mutex
	closing  bool
	nextID   xen.DomID
	domains  map[xen.DomID]*domain
	sessions map[*session]struct{}
	perUser  map[uint32]int
	lastLink uint32
}

// Start makes the directory if needed and a host in it, with domain 0 only.
// Sockets that a dead host has left there are replaced; a live host is
// EADDRINUSE. The caller must Close the host.
func Start(dir string, cfg Config) (*Host, error) {
	h := &Host{
		dir: dir, cfg: cfg, store: storeserver.New(cfg.Store), uid: uint32(os.Geteuid()),
		done:     make(chan struct{}),
		nextID:   1,
		domains:  make(map[xen.DomID]*domain),
		sessions: make(map[*session]struct{}),
		perUser:  make(map[uint32]int),
	}
	h.domains[0] = newDomain(0, DomainConfig{Name: "Domain-0", UID: h.uid}, dom0Limits)
	if err := h.start(); err != nil {
		_ = h.Close()
		return nil, fmt.Errorf("embedded host in %s: %w", dir, err)
	}
	return h, nil
}

func (h *Host) start() error {
	// Guests may belong to other users, who must get through to xen.sock.
	if err := os.MkdirAll(h.dir, 0o711); err != nil {
		return err
	}
	lock, err := sys.LockFile(filepath.Join(h.dir, lockFile))
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("another host runs there: %w", syscall.EADDRINUSE)
	}
	if err != nil {
		return err
	}
	h.lock = lock
	ctx := context.Background()
	if h.storeLn, err = h.listen(ctx, "unix", storeSocket, 0o600); err != nil {
		return err
	}
	ours, theirs := net.Pipe()
	h.wg.Go(func() { _ = h.store.ServeConn(theirs, 0) })
	h.nodes.store = xenstore.New(ours)
	if err := h.nodes.addHost(ctx); err != nil {
		return err
	}
	h.wg.Go(func() { _ = h.store.Serve(h.storeLn) })
	if h.ln, err = h.listen(ctx, "unixpacket", xenSocket, 0o666); err != nil {
		return err
	}
	h.clients.Go(h.accept)
	return nil
}

// listen replaces what a dead host has left, which nobody else can be using, as
// the lock is ours.
func (h *Host) listen(ctx context.Context, network, name string, mode fs.FileMode) (*net.UnixListener, error) {
	path := filepath.Join(h.dir, name)
	fi, err := os.Lstat(path)
	switch {
	case err == nil && fi.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is in the way and not a socket: %w", path, syscall.EEXIST)
	case err == nil:
		err = os.Remove(path)
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return sys.ListenUnix(ctx, network, path, mode)
}

// StorePath is the privileged socket of the host's xenstore.
func (h *Host) StorePath() string { return filepath.Join(h.dir, storeSocket) }

// Close ends the host as if the machine lost its power: every connection is
// closed, the sockets are removed, the store is closed. It returns when all of
// the host's goroutines have ended. Further calls do nothing.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closing {
		h.mu.Unlock()
		return nil
	}
	h.closing = true
	close(h.done)
	for s := range h.sessions {
		_ = s.conn.Close()
	}
	h.mu.Unlock()
	if h.ln != nil {
		_ = h.ln.Close()
	}
	h.clients.Wait()

	h.adminMu.Lock() // lets a domain's change finish that is under way
	defer h.adminMu.Unlock()
	if h.storeLn != nil {
		_ = h.storeLn.Close()
	}
	if h.nodes.store != nil {
		_ = h.nodes.store.Close()
	}
	err := h.store.Close()
	h.wg.Wait()
	if h.lock != nil {
		_ = h.lock.Close()
	}
	return err
}

func (h *Host) accept() {
	for {
		c, err := h.ln.AcceptUnix()
		if err == nil {
			h.admit(c)
			continue
		}
		select {
		case <-h.done:
			return
		case <-time.After(20 * time.Millisecond): // no descriptors left, likely
		}
	}
}

// admit starts a session, unless its user has too many.
func (h *Host) admit(c *net.UnixConn) {
	cred, err := sys.PeerCred(c)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil || h.closing || h.perUser[cred.UID] >= maxPerUser {
		_ = c.Close()
		return
	}
	s := &session{
		host: h, conn: c, uid: cred.UID,
		slot:    make(chan struct{}, maxStreams),
		ports:   make(map[*port]struct{}),
		shares:  make(map[uint32]*share),
		maps:    make(map[uint32]*mapping),
		streams: make(map[*net.UnixConn]struct{}),
		links:   make(map[xen.DomID]*link),
	}
	h.sessions[s] = struct{}{}
	h.perUser[s.uid]++
	h.clients.Go(s.serve)
}

// endSession is the last thing that a session does. The end of a running
// guest's last one is the guest's crash.
func (h *Host) endSession(s *session) {
	h.mu.Lock()
	s.release()
	delete(h.sessions, s)
	if h.perUser[s.uid]--; h.perUser[s.uid] == 0 {
		delete(h.perUser, s.uid)
	}
	d := s.dom
	crashed := d != nil && d.id != 0 && d.state == StateRunning && len(d.sessions) == 0 && !h.closing
	if crashed {
		d.state = StateShutdown // nobody can connect any more
	}
	h.mu.Unlock()
	if crashed {
		h.crash(d)
	}
}

// crash does to a crashed guest what its configuration says. There is nobody
// to tell of an error.
func (h *Host) crash(d *domain) {
	h.adminMu.Lock()
	defer h.adminMu.Unlock()
	if _, err := h.find(d.id); err != nil {
		return // destroyed meanwhile
	}
	if d.onCrash == CrashPreserve {
		h.store.ShutdownDomain(d.id)
		return
	}
	_ = h.destroy(context.Background(), d)
}

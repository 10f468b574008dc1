package xensim

import (
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
)

const (
	// helloTimeout is how long a new connection may take to say who it is.
	helloTimeout = 5 * time.Second
	// replyTimeout is how long a client may leave its replies unread.
	replyTimeout = 5 * time.Second
	// replyBuffer bounds the replies, and with them the descriptors in
	// flight, that a client can leave unread (bytes).
	replyBuffer = 16 << 10
	// maxStreams is how many store streams a connection may have; for one
	// more it waits up to streamTimeout, as the store learns of a stream's
	// end a little later than the client.
	maxStreams    = 16
	streamTimeout = time.Second
)

// session is one connection of a domain. What a domain gets through it goes
// when it ends.
type session struct {
	host *Host
	conn *net.UnixConn
	uid  uint32
	dom  *domain       // set by hello
	slot chan struct{} // capacity maxStreams: one value a stream

	// Guarded by host.mu:
	released bool
	ports    map[*port]struct{}
	shares   map[uint32]*share
	maps     map[uint32]*mapping
	streams  map[*net.UnixConn]struct{}
	links    map[xen.DomID]*link // for the ports that it has allocated
	lastID   uint32
}

// reply is what a hypercall gives back.
type reply struct {
	words []uint32
	pass  []*sys.Handle // stay the hypervisor's, unless
	gift  bool          // they are closed once they have been passed
}

var hypercalls = map[Op]func(*session, []uint32) (reply, error){
	OpAllocUnbound:    (*session).allocUnbound,
	OpBindInterdomain: (*session).bindInterdomain,
	OpClosePort:       (*session).closePort,
	OpShare:           (*session).sharePages,
	OpUnshare:         (*session).unshare,
	OpMap:             (*session).mapGrants,
	OpUnmap:           (*session).unmapGrants,
	OpOpenStore:       (*session).openStore,
}

// serve answers the client until it leaves, breaks the protocol or is thrown
// out. One slow or hostile client delays nobody but itself: each has its own
// goroutine, and no lock is held while a reply is sent.
func (s *session) serve() {
	defer s.host.endSession(s)
	_ = s.conn.SetWriteBuffer(replyBuffer)
	_ = s.conn.SetReadDeadline(time.Now().Add(helloTimeout))
	buf := make([]byte, maxMessage+1) // one more shows a longer message
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			return
		}
		op, args, err := decodeRequest(buf[:n])
		if err != nil || (op == OpHello) != (s.dom == nil) {
			return
		}
		var r reply
		if op == OpHello {
			r, err = s.hello(args)
		} else {
			r, err = s.call(op, args)
		}
		if s.send(r, err) != nil || s.dom == nil {
			return
		}
		_ = s.conn.SetReadDeadline(time.Time{})
	}
}

func (s *session) call(op Op, args []uint32) (reply, error) {
	if s.host.cfg.Fault != nil {
		if err := s.host.cfg.Fault(op, s.dom.id); err != nil {
			return reply{}, err
		}
	}
	return hypercalls[op](s, args)
}

func (s *session) send(r reply, err error) error {
	if r.gift {
		defer sys.CloseAll(r.pass)
	}
	first := uint32(0)
	if err != nil {
		first, r = uint32(errnoOf(err)), reply{}
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(replyTimeout))
	return sys.SendMsg(s.conn, encode(first, r.words...), r.pass...)
}

// errnoOf is the errno that the client sees.
func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) && errno != 0 {
		return errno
	}
	return syscall.EIO
}

// hello decides what the connection may be. Domain 0 is for the user that runs
// the host, and root; a guest is for the user that its configuration names.
func (s *session) hello(args []uint32) (reply, error) {
	if args[0] != protoVersion {
		return reply{}, syscall.EPROTONOSUPPORT
	}
	id, err := toDomID(args[1])
	if err != nil {
		return reply{}, err
	}
	h := s.host
	if h.cfg.Fault != nil {
		if err := h.cfg.Fault(OpHello, id); err != nil {
			return reply{}, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[id]
	switch {
	case d == nil || d.state == StateDying:
		return reply{}, syscall.ESRCH
	case s.uid != d.uid && (id != 0 || s.uid != 0):
		return reply{}, syscall.EPERM
	case d.state == StateShutdown:
		return reply{}, syscall.ESHUTDOWN
	case len(d.sessions) >= d.limits.sessions:
		return reply{}, syscall.ENOSPC
	case s.released:
		return reply{}, syscall.ESRCH
	}
	s.dom = d
	d.sessions[s] = struct{}{}
	return reply{}, nil
}

// openStore starts a xenstore stream as the session's domain.
func (s *session) openStore([]uint32) (reply, error) {
	h := s.host
	select {
	case s.slot <- struct{}{}:
	case <-h.done:
		return reply{}, syscall.ESHUTDOWN
	case <-time.After(streamTimeout):
		return reply{}, syscall.ENOSPC
	}
	ours, theirs, err := sys.Socketpair()
	if err != nil {
		<-s.slot
		return reply{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.released {
		_ = ours.Close()
		_ = theirs.Close()
		<-s.slot
		return reply{}, syscall.ESRCH
	}
	s.streams[ours] = struct{}{}
	dom := s.dom.id
	h.wg.Go(func() { s.serveStream(ours, dom) })
	return reply{pass: []*sys.Handle{theirs}, gift: true}, nil
}

func (s *session) serveStream(ours *net.UnixConn, dom xen.DomID) {
	_ = s.host.store.ServeConn(ours, dom) // closes the stream
	s.host.mu.Lock()
	delete(s.streams, ours)
	s.host.mu.Unlock()
	<-s.slot
}

// newID numbers the session's shares and mappings; the host's mu is held.
func (s *session) newID() uint32 {
	for {
		s.lastID++
		if s.shares[s.lastID] == nil && s.maps[s.lastID] == nil {
			return s.lastID
		}
	}
}

// release takes back all that the session holds and ends its connection; the
// host's mu is held.
func (s *session) release() {
	if s.released {
		return
	}
	s.released = true
	_ = s.conn.Close()
	for p := range s.ports {
		p.close()
	}
	for id := range s.maps {
		s.dropMap(id)
	}
	for _, sh := range s.shares {
		sh.end()
	}
	for c := range s.streams {
		_ = c.Close()
	}
	if s.dom != nil {
		delete(s.dom.sessions, s)
	}
}

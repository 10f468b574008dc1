package storeserver

import (
	"bytes"
	"errors"
	"strconv"
	"syscall"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// request is a message with where and for whom it acts. The zero conn is the
// server itself, which may do everything.
type request struct {
	wire.Message
	conn *conn
	tx   *tx // nil outside a transaction
	view     // the transaction, or the store
}

// unprivileged reports whether permissions and quotas bind the request.
func (r request) unprivileged() bool { return r.conn != nil && !r.conn.dom.privileged() }

// operation is how one type of message is handled. The result is the payload of
// the reply; an error goes out by its errno. nil for both says that the handler
// has replied.
type operation struct {
	run        func(*Server, request) ([]byte, error)
	privileged bool // EACCES for all but domain 0
	outsideTx  bool // tx_id is ignored
}

var operations = map[wire.Type]operation{
	wire.Control:            {run: (*Server).doControl, privileged: true},
	wire.Directory:          {run: (*Server).doDirectory},
	wire.Read:               {run: (*Server).doRead},
	wire.GetPerms:           {run: (*Server).doGetPerms},
	wire.Watch:              {run: (*Server).doWatch, outsideTx: true},
	wire.Unwatch:            {run: (*Server).doUnwatch, outsideTx: true},
	wire.TransactionStart:   {run: (*Server).doStart},
	wire.TransactionEnd:     {run: (*Server).doEnd},
	wire.Introduce:          {run: (*Server).doIntroduce, privileged: true},
	wire.Release:            {run: (*Server).doRelease, privileged: true},
	wire.GetDomainPath:      {run: (*Server).doGetDomainPath},
	wire.Write:              {run: (*Server).doWrite},
	wire.Mkdir:              {run: (*Server).doMkdir},
	wire.Rm:                 {run: (*Server).doRm},
	wire.SetPerms:           {run: (*Server).doSetPerms},
	wire.IsDomainIntroduced: {run: (*Server).doIsIntroduced, privileged: true},
	wire.Resume:             {run: (*Server).doResume, privileged: true},
	wire.SetTarget:          {run: (*Server).doSetTarget, privileged: true},
	wire.ResetWatches:       {run: (*Server).doReset},
	wire.DirectoryPart:      {run: (*Server).doDirectoryPart},
}

var ok = []byte("OK\x00")

// handle answers one message: unknown types first, then privilege, then the
// transaction, then what the message says, in C's order.
func (s *Server) handle(c *conn, m wire.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.out.isClosed() { // the domain died while the request was on its way
		return
	}
	payload, err := s.run(c, m)
	if err == nil && len(payload) > wire.MaxPayload {
		err = syscall.E2BIG
	}
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		c.reply(m, wire.Error, wire.JoinNUL(wire.ErrnoName(errno)))
	case payload != nil:
		c.reply(m, m.Type, payload)
	}
}

func (s *Server) run(c *conn, m wire.Message) ([]byte, error) {
	op, known := operations[m.Type]
	if !known {
		return nil, syscall.ENOSYS
	}
	if op.privileged && !c.dom.privileged() {
		return nil, syscall.EACCES
	}
	r := request{Message: m, conn: c, view: s.tree}
	if m.TxID != 0 && !op.outsideTx {
		if r.tx = c.txs[m.TxID]; r.tx == nil {
			return nil, syscall.ENOENT
		}
		r.view = r.tx
	}
	payload, err := op.run(s, r)
	if r.tx != nil && r.tx.full && m.Type != wire.TransactionEnd {
		return nil, syscall.ENOSPC
	}
	return payload, err
}

// strings decodes a payload of exactly n strings.
func (r request) strings(n int) ([]string, error) {
	parts, whole := wire.SplitNUL(r.Payload)
	if !whole || len(parts) != n {
		return nil, syscall.EINVAL
	}
	return parts, nil
}

// path decodes a payload of one path.
func (r request) path() (string, error) {
	parts, err := r.strings(1)
	if err != nil {
		return "", err
	}
	return r.conn.absolute(parts[0])
}

// leading decodes a payload that begins with a string.
func (r request) leading() (first string, rest []byte, err error) {
	before, rest, found := bytes.Cut(r.Payload, []byte{0})
	if !found {
		return "", nil, syscall.EINVAL
	}
	return string(before), rest, nil
}

// domID decodes a domid.
func domID(s string) (xen.DomID, error) {
	dom, err := xen.ParseDomID(s)
	if err != nil {
		return 0, syscall.EINVAL
	}
	return dom, nil
}

func (s *Server) doWatch(r request) ([]byte, error) {
	parts, err := r.strings(2)
	if err != nil {
		return nil, err
	}
	w, err := s.addWatch(r.conn, parts[0], parts[1])
	if err != nil {
		return nil, err
	}
	r.conn.reply(r.Message, r.Type, ok)
	r.conn.event(nil, parts[0], w.token) // always after the reply
	return nil, nil
}

func (s *Server) doUnwatch(r request) ([]byte, error) {
	parts, err := r.strings(2)
	if err != nil {
		return nil, err
	}
	path, err := r.conn.watchPath(parts[0])
	if err != nil || !s.removeWatch(r.conn, watchKey{path, parts[1]}) {
		return nil, syscall.ENOENT
	}
	return ok, nil
}

func (s *Server) doReset(r request) ([]byte, error) {
	s.reset(r.conn)
	return ok, nil
}

func (s *Server) doStart(r request) ([]byte, error) {
	if r.tx != nil {
		return nil, syscall.EBUSY
	}
	limit := 0
	if r.unprivileged() {
		limit = s.quota.TransactionOps
		if r.conn.dom.txs > s.quota.Transactions {
			return nil, syscall.ENOSPC
		}
	}
	c := r.conn
	for c.lastTx++; c.lastTx == 0 || c.txs[c.lastTx] != nil; c.lastTx++ {
	}
	c.txs[c.lastTx] = newTx(s.tree, limit)
	c.dom.txs++
	return wire.JoinNUL(strconv.FormatUint(uint64(c.lastTx), 10)), nil
}

func (s *Server) doEnd(r request) ([]byte, error) {
	parts, err := r.strings(1)
	if err != nil || parts[0] != "T" && parts[0] != "F" {
		return nil, syscall.EINVAL
	}
	if r.tx == nil {
		return nil, syscall.ENOENT
	}
	delete(r.conn.txs, r.TxID)
	r.conn.dom.txs--
	if parts[0] == "F" {
		return ok, nil
	}
	if r.unprivileged() {
		for dom, delta := range r.tx.delta {
			if delta.nodes > 0 && r.tx.used(dom).nodes > s.quota.Nodes {
				return nil, syscall.ENOSPC
			}
		}
	}
	if err := r.tx.commit(); err != nil {
		return nil, err
	}
	for _, path := range r.tx.order {
		a := r.tx.seen[path]
		switch {
		case !a.fire || a.first == nil && a.now == nil:
		case a.first == nil:
			s.fire(r.conn, path, a.exact, a.now, nil)
		default:
			n := a.now
			if n == nil {
				n = a.first
			}
			s.fire(r.conn, path, a.exact, n, a.first.perms)
		}
	}
	return ok, nil
}

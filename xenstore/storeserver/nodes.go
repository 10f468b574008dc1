package storeserver

import (
	"bytes"
	"strconv"
	"strings"
	"syscall"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// may is what a request wants to do with a node.
type may int

const (
	mayRead may = iota
	mayWrite
	mayOwn
)

// allowed reports whether the permissions let the request do what it wants.
func (r request) allowed(perms wire.Perms, want may) bool {
	if !r.unprivileged() {
		return true
	}
	switch want {
	case mayRead:
		return r.conn.dom.access(perms).CanRead()
	case mayWrite:
		return r.conn.dom.access(perms).CanWrite()
	default:
		return r.conn.dom.owns(perms)
	}
}

// find is the node at path if the request may do what it wants with it. Whether
// a node that is not there is ENOENT or EACCES depends on the nearest
// node above that is: one must not learn what is in a directory one cannot use.
func (s *Server) find(r request, path string, want may) (*node, error) {
	if n := r.node(path); n != nil {
		if !r.allowed(n.perms, want) {
			return nil, syscall.EACCES
		}
		return n, nil
	}
	if want == mayOwn {
		want = mayWrite // nobody owns what is not there
	}
	for path != "/" {
		path, _ = split(path)
		if n := r.node(path); n != nil {
			if !r.allowed(n.perms, want) {
				return nil, syscall.EACCES
			}
			break
		}
	}
	return nil, syscall.ENOENT
}

// findPath is find for a payload of one path.
func (s *Server) findPath(r request, want may) (string, *node, error) {
	path, err := r.path()
	if err != nil {
		return "", nil, err
	}
	n, err := s.find(r, path, want)
	return path, n, err
}

// changed fires the watches of a changed node, at the end of the transaction if
// there is one.
func (s *Server) changed(r request, path string, exact bool, n *node, old wire.Perms) {
	if r.tx != nil {
		r.tx.notify(path, exact)
		return
	}
	s.fire(r.conn, path, exact, n, old)
}

func (s *Server) doRead(r request) ([]byte, error) {
	_, n, err := s.findPath(r, mayRead)
	if err != nil {
		return nil, err
	}
	return append([]byte{}, n.value...), nil // an empty value is a reply too
}

func (s *Server) doDirectory(r request) ([]byte, error) {
	_, n, err := s.findPath(r, mayRead)
	if err != nil {
		return nil, err
	}
	return append([]byte{}, wire.JoinNUL(n.children...)...), nil
}

// doDirectoryPart answers with the node's generation and as many whole names,
// from a byte offset of the list on, as fit; an empty name ends the list.
func (s *Server) doDirectoryPart(r request) ([]byte, error) {
	parts, err := r.strings(2)
	if err != nil {
		return nil, err
	}
	path, err := r.conn.absolute(parts[0])
	if err != nil {
		return nil, err
	}
	n, err := s.find(r, path, mayRead)
	if err != nil {
		return nil, err
	}
	offset, err := strconv.ParseUint(parts[1], 10, 31)
	if err != nil {
		return nil, syscall.EINVAL
	}
	list := wire.JoinNUL(n.children...)
	list = list[min(int(offset), len(list)):]
	reply := wire.JoinNUL(strconv.FormatUint(n.gen, 10))
	if room := wire.MaxPayload - len(reply) - 1; len(list) > room {
		whole := bytes.LastIndexByte(list[:room], 0) + 1
		return append(reply, list[:whole]...), nil
	}
	return append(append(reply, list...), 0), nil
}

func (s *Server) doGetPerms(r request) ([]byte, error) {
	_, n, err := s.findPath(r, mayRead)
	if err != nil {
		return nil, err
	}
	return wire.JoinNUL(n.perms.Strings()...), nil
}

func (s *Server) doWrite(r request) ([]byte, error) {
	given, value, err := r.leading()
	if err != nil {
		return nil, err
	}
	path, err := r.conn.absolute(given)
	if err != nil {
		return nil, err
	}
	return s.write(r, path, value, true)
}

func (s *Server) doMkdir(r request) ([]byte, error) {
	path, err := r.path()
	if err != nil {
		return nil, err
	}
	return s.write(r, path, nil, false)
}

// write gives a node a value, and makes it with its missing parents if need be.
// An existing node keeps its value unless replace.
func (s *Server) write(r request, path string, value []byte, replace bool) ([]byte, error) {
	n, err := s.find(r, path, mayWrite)
	switch {
	case err == syscall.ENOENT:
		if n, err = s.create(r, path, value); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case !replace:
		return ok, nil
	default:
		old := n
		n = n.withValue(value)
		if err := s.fits(r, n, n.size()-old.size()); err != nil {
			return nil, err
		}
		r.put(path, n)
	}
	s.changed(r, path, false, n, nil)
	return ok, nil
}

// fits checks the quotas on the size of a node and of all nodes of its owner.
func (s *Server) fits(r request, n *node, grown int) error {
	if !r.unprivileged() {
		return nil
	}
	if n.size() >= s.quota.NodeSize {
		return syscall.ENOSPC
	}
	if grown > 0 && r.used(n.owner()).bytes+grown > s.quota.Memory {
		return syscall.ENOMEM
	}
	return nil
}

// create makes the node at path and its missing parents, none if one of them
// would break a quota. find has checked the right to write above them.
func (s *Server) create(r request, path string, value []byte) (*node, error) {
	paths := []string{path} // deepest first
	up, name := split(path)
	parent := r.node(up)
	for ; parent == nil; parent = r.node(up) {
		paths = append(paths, up)
		up, name = split(up)
	}
	perms := parent.perms
	if r.unprivileged() {
		perms = append(wire.Perms(nil), perms...)
		perms[0].DomID = uint16(r.conn.dom.id)
	}
	made := make([]*node, len(paths)) // as paths
	total := 0
	for i := range paths {
		made[i] = &node{perms: perms}
		if i == 0 {
			made[i].value = value
		} else {
			_, child := split(paths[i-1])
			made[i].children = []string{child}
		}
		total += made[i].size()
		if err := s.fits(r, made[i], total); err != nil {
			return nil, err
		}
	}
	bigger := parent.withChild(name)
	if err := s.fits(r, bigger, len(name)+1); err != nil {
		return nil, err
	}
	if r.unprivileged() && r.used(perms[0].DomID).nodes+len(paths) > s.quota.Nodes {
		return nil, syscall.ENOSPC
	}
	r.put(up, bigger)
	for i := len(paths) - 1; i >= 0; i-- {
		r.put(paths[i], made[i])
	}
	return made[0], nil
}

func (s *Server) doRm(r request) ([]byte, error) {
	path, _, err := s.findPath(r, mayWrite)
	switch {
	case err == syscall.ENOENT:
		if up, _ := split(path); r.node(up) == nil {
			return nil, err
		}
		return ok, nil
	case err != nil:
		return nil, err
	case path == "/":
		return nil, syscall.EINVAL
	}
	s.remove(r, path)
	return ok, nil
}

// remove takes a node away with all below it. The right to the node is enough.
// Watches inside the subtree fire for their own node, all others for its root.
func (s *Server) remove(r request, path string) {
	up, name := split(path)
	if parent := r.node(up); parent != nil {
		r.put(up, parent.withoutChild(name))
	}
	s.removeTree(r, path, path)
}

func (s *Server) removeTree(r request, path, root string) {
	n := r.node(path)
	if n == nil { // only in a transaction that has reached its limit
		return
	}
	for _, name := range n.children {
		s.removeTree(r, join(path, name), root)
	}
	r.del(path)
	s.changed(r, path, path != root, n, nil)
}

func (s *Server) doSetPerms(r request) ([]byte, error) {
	parts, whole := wire.SplitNUL(r.Payload)
	if !whole || len(parts) < 2 {
		return nil, syscall.EINVAL
	}
	if r.unprivileged() && len(parts)-1 > s.quota.Perms {
		return nil, syscall.ENOSPC
	}
	perms, err := wire.ParsePerms(parts[1:])
	if err != nil {
		return nil, syscall.EINVAL
	}
	if strings.HasPrefix(parts[0], "@") {
		return s.setSpecial(r, parts[0], perms)
	}
	path, err := r.conn.absolute(parts[0])
	if err != nil {
		return nil, err
	}
	n, err := s.find(r, path, mayOwn)
	if err != nil {
		return nil, err
	}
	if r.unprivileged() && perms[0].DomID != n.owner() {
		return nil, syscall.EPERM
	}
	changed := n.withPerms(perms)
	if err := s.fits(r, changed, changed.size()-n.size()); err != nil {
		return nil, err
	}
	r.put(path, changed)
	s.changed(r, path, false, changed, n.perms)
	return ok, nil
}

// setSpecial grants the right to see the events of a special node.
func (s *Server) setSpecial(r request, name string, perms wire.Perms) ([]byte, error) {
	if r.unprivileged() {
		return nil, syscall.EINVAL
	}
	if _, known := s.special[name]; !known {
		return nil, syscall.ENOENT
	}
	s.special[name] = perms
	return ok, nil
}

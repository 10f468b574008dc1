package storeserver

import (
	"cmp"
	"slices"
	"syscall"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// watchKey tells a connection's watches apart.
type watchKey struct{ path, token string }

// watch is one watch of one connection.
type watch struct {
	watchKey
	conn *conn
	cut  int    // bytes that events leave out of the path: the home, for a relative watch
	seq  uint64 // counts all watches: events of one change go out in this order
}

// addWatch registers a watch on the path as given, and fires it once whether or
// not the node exists. The caller queues the reply between the two.
func (s *Server) addWatch(c *conn, given, token string) (*watch, error) {
	path, err := c.watchPath(given)
	if err != nil {
		return nil, err
	}
	key := watchKey{path, token}
	if c.watches[key] != nil {
		return nil, syscall.EEXIST
	}
	if !c.dom.privileged() && c.dom.watches > s.quota.Watches {
		return nil, syscall.E2BIG
	}
	s.watchSeq++
	w := &watch{watchKey: key, conn: c, cut: len(path) - len(given), seq: s.watchSeq}
	c.watches[key] = w
	c.dom.watches++
	s.watches[path] = append(s.watches[path], w)
	return w, nil
}

// removeWatch undoes addWatch and reports whether there was such a watch.
func (s *Server) removeWatch(c *conn, key watchKey) bool {
	w := c.watches[key]
	if w == nil {
		return false
	}
	delete(c.watches, key)
	c.dom.watches--
	if rest := slices.DeleteFunc(s.watches[key.path], func(o *watch) bool { return o == w }); len(rest) > 0 {
		s.watches[key.path] = rest
	} else {
		delete(s.watches, key.path)
	}
	return true
}

// fire sends an event for a changed node to every watch on it or above it, or
// with exact only to those on the node itself: a removed subtree tells the
// watches above it once, by its root. n is the node, also when it was just
// removed; old are its permissions before the change, nil if they are the same.
func (s *Server) fire(cause *conn, path string, exact bool, n *node, old wire.Perms) {
	if len(s.watches) == 0 {
		return
	}
	hit := slices.Clone(s.watches[path])
	for at := path; !exact && at != "/"; {
		at, _ = split(at)
		hit = append(hit, s.watches[at]...)
	}
	slices.SortFunc(hit, func(a, b *watch) int { return cmp.Compare(a.seq, b.seq) })
	for _, w := range hit {
		if s.maySee(w.conn.dom, path, n, old) {
			w.conn.event(cause, path[w.cut:], w.token)
		}
	}
}

// maySee reports whether a domain may know that a node changed: it can read the
// node as it is or was, or the parent.
func (s *Server) maySee(d *domain, path string, n *node, old wire.Perms) bool {
	if d.privileged() || old != nil && d.access(old).CanRead() {
		return true
	}
	if n == nil || d.access(n.perms).CanRead() {
		return n != nil
	}
	up, _ := split(path)
	parent := s.tree.node(up)
	return parent != nil && d.access(parent.perms).CanRead()
}

// fireSpecial sends an event for a special node to those who watch it and may.
func (s *Server) fireSpecial(name string) {
	for _, w := range s.watches[name] {
		if w.conn.dom.access(s.special[name]).CanRead() {
			w.conn.event(nil, name, w.token)
		}
	}
}

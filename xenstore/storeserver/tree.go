package storeserver

import (
	"slices"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// node is one version of a node. It is never changed once it is in a store:
// a new version takes its place.
type node struct {
	gen      uint64 // counts all changes of the server; unique to this version
	perms    wire.Perms
	value    []byte
	children []string // in the order of their creation
}

// size is what the quotas count, in bytes: C's record header, eight bytes a
// permission, the value, and the children's names with a NUL after each.
func (n *node) size() int {
	size := 24 + 8*len(n.perms) + len(n.value)
	for _, name := range n.children {
		size += len(name) + 1
	}
	return size
}

func (n *node) owner() uint16 { return n.perms[0].DomID }

func (n *node) withValue(value []byte) *node {
	return &node{perms: n.perms, value: value, children: n.children}
}

func (n *node) withPerms(perms wire.Perms) *node {
	return &node{perms: perms, value: n.value, children: n.children}
}

func (n *node) withChild(name string) *node {
	children := append(slices.Clip(n.children), name)
	return &node{perms: n.perms, value: n.value, children: children}
}

func (n *node) withoutChild(name string) *node {
	children := make([]string, 0, len(n.children))
	for _, other := range n.children {
		if other != name {
			children = append(children, other)
		}
	}
	return &node{perms: n.perms, value: n.value, children: children}
}

// usage is what a domain's nodes take.
type usage struct{ nodes, bytes int }

func (u usage) plus(v usage) usage { return usage{u.nodes + v.nodes, u.bytes + v.bytes} }

// account adds (or with sign -1 takes away) a node to its owner's usage.
func account(by map[uint16]usage, n *node, sign int) {
	if n == nil {
		return
	}
	u := by[n.owner()].plus(usage{sign, sign * n.size()})
	if u == (usage{}) {
		delete(by, n.owner())
		return
	}
	by[n.owner()] = u
}

// view is where a request finds the nodes: the store itself, or a transaction.
type view interface {
	// node is the node at an absolute path, nil when there is none.
	node(path string) *node
	// put makes n the node at path, and gives it its generation. It does not
	// touch the parent.
	put(path string, n *node)
	// del removes the node at path alone.
	del(path string)
	// used is what the nodes of a domain take.
	used(dom uint16) usage
}

// tree is the store.
type tree struct {
	nodes map[string]*node
	gen   uint64 // of the youngest node
	by    map[uint16]usage
}

func newTree() *tree {
	return &tree{nodes: make(map[string]*node), by: make(map[uint16]usage)}
}

func (t *tree) node(path string) *node { return t.nodes[path] }

func (t *tree) put(path string, n *node) {
	account(t.by, t.nodes[path], -1)
	account(t.by, n, 1)
	t.gen++
	n.gen = t.gen
	t.nodes[path] = n
}

func (t *tree) del(path string) {
	account(t.by, t.nodes[path], -1)
	delete(t.nodes, path)
}

func (t *tree) used(dom uint16) usage { return t.by[dom] }

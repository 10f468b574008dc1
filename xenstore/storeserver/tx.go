package storeserver

import "syscall"

// tx is a transaction: what it changed, laid over the store, and the version of
// every node that it touched. C xenstored looks at a node before it writes it,
// so that a node only written conflicts like one that was read; so does this.
// A node is seen as it was at the first touch, not as it was at the start: the
// check at the end makes that one moment for all of them.
type tx struct {
	base  *tree
	limit int // most nodes touched, 0 for no limit
	seen  map[string]*access
	order []string // the keys of seen by first touch
	delta map[uint16]usage
	full  bool // the limit was reached: the transaction can only be aborted
}

// access is what a transaction knows of one path.
type access struct {
	first, now   *node // as first seen, and as changed since; nil is absent
	fire, exact  bool  // watches fire at the end; see Server.fire
	generation   uint64
	wasDifferent bool // now was put or deleted at least once
}

func newTx(base *tree, limit int) *tx {
	return &tx{base: base, limit: limit, seen: make(map[string]*access), delta: make(map[uint16]usage)}
}

// touch is the access of a path; nil when the limit forbids another one.
func (t *tx) touch(path string) *access {
	if a := t.seen[path]; a != nil {
		return a
	}
	if t.full || t.limit > 0 && len(t.order) >= t.limit {
		t.full = true
		return nil
	}
	n := t.base.nodes[path]
	a := &access{first: n, now: n, generation: generation(n)}
	t.seen[path] = a
	t.order = append(t.order, path)
	return a
}

// generation is a node's version; 0 says that there is none.
func generation(n *node) uint64 {
	if n == nil {
		return 0
	}
	return n.gen
}

func (t *tx) node(path string) *node {
	a := t.touch(path)
	if a == nil { // the answer is not used any more
		return t.base.nodes[path]
	}
	return a.now
}

func (t *tx) put(path string, n *node) {
	t.base.gen++
	n.gen = t.base.gen
	t.change(path, n)
}

func (t *tx) del(path string) { t.change(path, nil) }

func (t *tx) change(path string, n *node) {
	a := t.touch(path)
	if a == nil {
		return
	}
	account(t.delta, a.now, -1)
	account(t.delta, n, 1)
	a.now, a.wasDifferent = n, true
}

func (t *tx) used(dom uint16) usage { return t.base.by[dom].plus(t.delta[dom]) }

// notify has watches fire for the path when the transaction ends well.
func (t *tx) notify(path string, exact bool) {
	if a := t.touch(path); a != nil {
		a.fire, a.exact = true, exact
	}
}

// commit makes the changes those of the store: EAGAIN when another has changed
// a node that was touched here, and then nothing is done.
func (t *tx) commit() error {
	if t.full {
		return syscall.ENOMEM
	}
	for path, a := range t.seen {
		if generation(t.base.nodes[path]) != a.generation {
			return syscall.EAGAIN
		}
	}
	for _, path := range t.order {
		switch a := t.seen[path]; {
		case !a.wasDifferent:
		case a.now != nil:
			t.base.put(path, a.now)
		default:
			t.base.del(path)
		}
	}
	return nil
}

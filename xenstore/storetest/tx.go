package storetest

import (
	"testing"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// unknownTx is how the daemon refuses an id that is not open.
func (s suite) unknownTx() string {
	if s.Flavour == OCaml {
		return fails("EIO")
	}
	return fails("ENOENT")
}

// step is one request on a node of the subtest's directory.
type step struct {
	typ  wire.Type
	path string // below the directory, with a leading slash if not empty
	rest string // what follows the path's NUL
}

// conflict is what one connection does in a transaction and another one outside
// before the end, and whether the end is EAGAIN. At the beginning there are x and
// y, with the value one, and no n or m. The transaction also writes a node of its
// own, as oxenstored lets one that only reads end well in any case.
type conflict struct {
	name            string
	inside, outside step
	again           bool
}

// conflicts hold for every daemon.
var conflicts = []conflict{
	{"read, write", step{wire.Read, "/x", ""}, step{wire.Write, "/x", "two"}, true},
	{"read, rm", step{wire.Read, "/x", ""}, step{wire.Rm, "/x", ""}, true},
	{"read, write of another", step{wire.Read, "/y", ""}, step{wire.Write, "/x", "two"}, false},
	{"list, write of a child", step{wire.Directory, "", ""}, step{wire.Write, "/x", "two"}, false},
	{"list, new child", step{wire.Directory, "", ""}, step{wire.Write, "/m", "two"}, true},
	{"write, write of another", step{wire.Write, "/y", "tx"}, step{wire.Write, "/x", "two"}, false},
}

// cConflicts are those where oxenstored is more generous: C touches a node
// before it writes it, and the parent of a new or missing node.
var cConflicts = []conflict{
	{"read of absent, create", step{wire.Read, "/n", ""}, step{wire.Write, "/n", "two"}, true},
	{"write, write", step{wire.Write, "/x", "tx"}, step{wire.Write, "/x", "two"}, true},
	{"create, create", step{wire.Write, "/n", "tx"}, step{wire.Write, "/n", "two"}, true},
	{"create, create another", step{wire.Write, "/n", "tx"}, step{wire.Write, "/m", "two"}, true},
	{"write, permissions", step{wire.Write, "/x", "tx"}, step{wire.SetPerms, "/x", "n0\x00r3\x00"}, true},
	{"permissions, write", step{wire.SetPerms, "/x", "n0\x00"}, step{wire.Write, "/x", "two"}, true},
	{"rm, write", step{wire.Rm, "/x", ""}, step{wire.Write, "/x", "two"}, true},
	{"rm, write of a descendant", step{wire.Rm, "/deep", ""}, step{wire.Write, "/deep/a/b", "two"}, true},
	{"rm of absent, create", step{wire.Rm, "/n", ""}, step{wire.Write, "/n", "two"}, true},
	{"read, new child", step{wire.Read, "/x", ""}, step{wire.Write, "/x/c", "two"}, true},
	{"read, write of the same value", step{wire.Read, "/x", ""}, step{wire.Write, "/x", "one"}, true},
	{"read of absent, sibling", step{wire.Read, "/n", ""}, step{wire.Write, "/m", "two"}, true},
	{"mkdir of existing, write", step{wire.Mkdir, "/x", ""}, step{wire.Write, "/x", "two"}, true},
	{"permissions asked, write", step{wire.GetPerms, "/x", ""}, step{wire.Write, "/x", "two"}, true},
}

// checkConflict runs one of the above.
func checkConflict(t *testing.T, s suite, x conflict) {
	inside, outside := x.inside, x.outside
	c, dir := s.dir(t)
	d := s.open(t)
	c.ok(wire.Write, dir+"/x\x00one")
	c.ok(wire.Write, dir+"/y\x00one")
	c.ok(wire.Write, dir+"/deep/a/b\x00one")
	c.ok(wire.Write, dir+"/own\x00one")
	tx := c.start()
	c.okTx(tx, wire.Write, dir+"/own\x00tx")
	c.do(inside.typ, tx, dir+inside.path+"\x00"+inside.rest)
	d.ok(outside.typ, dir+outside.path+"\x00"+outside.rest)
	want, own := "OK\x00", "tx"
	if x.again {
		want, own = fails("EAGAIN"), "one"
	}
	c.wantTx(tx, want, wire.TransactionEnd, "T\x00")
	c.wantTx(tx, s.unknownTx(), wire.TransactionEnd, "T\x00") // dead either way
	c.want(own, wire.Read, dir+"/own\x00")                    // all of it or nothing
	if outside.typ == wire.Write {
		c.want(outside.rest, wire.Read, dir+outside.path+"\x00")
	}
}

var txCases = map[string]func(*testing.T, suite){
	"conflicts": func(t *testing.T, s suite) {
		for _, x := range conflicts {
			t.Run(x.name, func(t *testing.T) { checkConflict(t, s, x) })
		}
	},
	"isolation and commit": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		d := s.open(t)
		tx := c.start()
		c.okTx(tx, wire.Write, dir+"/a/b\x00v")
		c.wantTx(tx, "v", wire.Read, dir+"/a/b\x00")
		c.wantTx(tx, "a\x00", wire.Directory, dir+"\x00")
		for _, other := range []*client{c, d} {
			other.want(fails("ENOENT"), wire.Read, dir+"/a/b\x00")
			other.want("", wire.Directory, dir+"\x00")
		}
		c.okTx(tx, wire.TransactionEnd, "T\x00")
		d.want("v", wire.Read, dir+"/a/b\x00")
		d.want("a\x00", wire.Directory, dir+"\x00")
	},
	"rm inside": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Write, dir+"/a/b\x00v")
		tx := c.start()
		c.okTx(tx, wire.Rm, dir+"/a\x00")
		c.wantTx(tx, fails("ENOENT"), wire.Read, dir+"/a/b\x00")
		c.okTx(tx, wire.Write, dir+"/a/c\x00w")
		c.wantTx(tx, "c\x00", wire.Directory, dir+"/a\x00")
		c.okTx(tx, wire.TransactionEnd, "T\x00")
		c.want("c\x00", wire.Directory, dir+"/a\x00")
		c.want(fails("ENOENT"), wire.Read, dir+"/a/b\x00")
	},
	"abort": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Write, dir+"/a\x00v")
		tx := c.start()
		c.okTx(tx, wire.Write, dir+"/a\x00w")
		c.okTx(tx, wire.Write, dir+"/b\x00w")
		c.okTx(tx, wire.TransactionEnd, "F\x00")
		c.want("v", wire.Read, dir+"/a\x00")
		c.want("a\x00", wire.Directory, dir+"\x00")
	},
	"a failed request does not spoil it": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		tx := c.start()
		c.okTx(tx, wire.Write, dir+"/a\x00v")
		c.wantTx(tx, fails("ENOENT"), wire.Read, dir+"/none\x00")
		c.wantTx(tx, fails("EINVAL"), wire.Read, dir+"/a.b\x00")
		c.okTx(tx, wire.TransactionEnd, "T\x00")
		c.want("v", wire.Read, dir+"/a\x00")
	},
	"ids": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		d := s.open(t)
		tx := c.start()
		if other := c.start(); other == tx {
			t.Errorf("two open transactions have the same id %d", tx)
		}
		c.wantTx(tx, fails("EBUSY"), wire.TransactionStart, "\x00")
		const unknown = 0x7fff0000
		for _, typ := range []wire.Type{wire.Read, wire.Directory, wire.GetPerms, wire.Mkdir, wire.Rm} {
			c.wantTx(unknown, s.unknownTx(), typ, dir+"\x00")
			d.wantTx(unknown, s.unknownTx(), typ, dir+"\x00")
		}
		c.wantTx(unknown, s.unknownTx(), wire.TransactionEnd, "T\x00")
		c.want(fails("ENOENT"), wire.TransactionEnd, "T\x00")
		c.wantTx(tx, fails("EINVAL"), wire.TransactionEnd, "X\x00")
		c.okTx(tx, wire.TransactionEnd, "T\x00")
	},
	"watch fires at the end alone": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		w := s.open(t)
		w.ok(wire.Watch, dir+"\x00w\x00")
		w.wantEvents(dir + "=w")
		tx := c.start()
		c.okTx(tx, wire.Write, dir+"/b\x00v")
		c.okTx(tx, wire.Write, dir+"/a\x00v")
		w.wantEvents()
		c.okTx(tx, wire.TransactionEnd, "T\x00")
		w.wantEventSet(dir+"/a=w", dir+"/b=w")
		tx = c.start()
		c.okTx(tx, wire.Write, dir+"/c\x00v")
		c.okTx(tx, wire.TransactionEnd, "F\x00")
		w.wantEvents()
	},
	"reset ends them": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		tx := c.start()
		c.okTx(tx, wire.Write, dir+"/a\x00v")
		c.ok(wire.Watch, dir+"\x00w\x00")
		c.wantEvents(dir + "=w")
		c.ok(wire.ResetWatches, "\x00")
		c.wantTx(tx, s.unknownTx(), wire.TransactionEnd, "T\x00")
		c.want(fails("ENOENT"), wire.Unwatch, dir+"\x00w\x00")
		c.ok(wire.Write, dir+"/b\x00")
		c.wantEvents()
		c.want("b\x00", wire.Directory, dir+"\x00")
	},
	"closing the connection aborts": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		d := s.open(t)
		tx := d.start()
		d.okTx(tx, wire.Write, dir+"/a\x00v")
		d.stream.Close()
		c.want("", wire.Directory, dir+"\x00")
	},
}

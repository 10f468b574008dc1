package storetest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/xenchan/xenchan/xenstore/wire"
)

var guestCases = map[string]func(*testing.T, suite){
	"access": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		for perms, may := range map[string]struct{ read, write bool }{
			"n0\x00":                                      {false, false},
			"r0\x00":                                      {true, false},
			"w0\x00":                                      {false, true},
			"b0\x00":                                      {true, true},
			fmt.Sprintf("n0\x00r%d\x00", g.dom):           {true, false},
			fmt.Sprintf("b0\x00n%d\x00", g.dom):           {false, false},
			fmt.Sprintf("n0\x00w%d\x00", g.dom):           {false, true},
			fmt.Sprintf("n%d\x00", g.dom):                 {true, true},
			fmt.Sprintf("n%d\x00n%[1]d\x00", g.dom):       {true, true},
			fmt.Sprintf("n0\x00r32700\x00b%d\x00", g.dom): {true, true},
		} {
			node := dir + "/node"
			c.ok(wire.Write, node+"\x00v")
			c.ok(wire.SetPerms, node+"\x00"+perms)
			check := func(may bool, want string, typ wire.Type, payload string) {
				t.Helper()
				if !may {
					want = fails("EACCES")
				}
				if got := g.do(typ, 0, payload); got != want {
					t.Errorf("with %q: %v = %q, want %q", perms, typ, got, want)
				}
			}
			check(may.read, "v", wire.Read, node+"\x00")
			check(may.read, "", wire.Directory, node+"\x00")
			check(may.read, perms, wire.GetPerms, node+"\x00")
			check(may.write, "OK\x00", wire.Write, node+"\x00v")
			check(may.write, "OK\x00", wire.Mkdir, node+"/child\x00")
			check(may.write, "OK\x00", wire.Rm, node+"\x00")
			c.ok(wire.Rm, node+"\x00")
		}
	},
	"whether a node exists is not told": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		c.ok(wire.Mkdir, dir+"/closed\x00")
		c.ok(wire.SetPerms, dir+"/closed\x00n0\x00")
		for _, path := range []string{"/closed/none", "/closed/none/none"} {
			g.want(fails("EACCES"), wire.Read, dir+path+"\x00")
			g.want(fails("EACCES"), wire.Write, dir+path+"\x00")
			g.want(fails("EACCES"), wire.Rm, dir+path+"\x00")
		}
		g.want(fails("ENOENT"), wire.Read, g.home+"/none\x00")
	},
	"new nodes belong to their maker": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		c.ok(wire.Mkdir, dir+"/open\x00")
		c.ok(wire.SetPerms, dir+"/open\x00n0\x00b"+g.dom.String()+"\x00r32700\x00")
		g.ok(wire.Write, dir+"/open/a/b\x00v")
		for _, path := range []string{"/open/a", "/open/a/b"} {
			c.want(fmt.Sprintf("n%d\x00b%[1]d\x00r32700\x00", g.dom), wire.GetPerms, dir+path+"\x00")
		}
		c.ok(wire.Write, g.home+"/by0\x00v") // dom0's take the parent's owner
		c.want(fmt.Sprintf("n%d\x00", g.dom), wire.GetPerms, g.home+"/by0\x00")
	},
	"permissions are the owner's": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g, h := s.guest(t, c, dir), s.guest(t, c, dir)
		node := g.home + "/node"
		g.ok(wire.Write, node+"\x00v")
		h.want(fails("EACCES"), wire.Read, node+"\x00")
		g.ok(wire.SetPerms, fmt.Sprintf("%s\x00n%d\x00b%d\x00", node, g.dom, h.dom))
		h.want("v", wire.Read, node+"\x00")
		h.ok(wire.Write, node+"\x00w")
		h.want(fails("EACCES"), wire.SetPerms, fmt.Sprintf("%s\x00n%d\x00", node, h.dom))
		g.want(fails("EPERM"), wire.SetPerms, fmt.Sprintf("%s\x00n%d\x00", node, h.dom))
		g.want(fails("ENOENT"), wire.SetPerms, fmt.Sprintf("%s/none\x00n%d\x00", g.home, g.dom))
	},
	"rm needs the right to the node alone": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		c.ok(wire.Write, g.home+"/fe/name\x00v")
		c.ok(wire.SetPerms, fmt.Sprintf("%s/fe/name\x00n0\x00r%d\x00", g.home, g.dom))
		g.want(fails("EACCES"), wire.Write, g.home+"/fe/name\x00w")
		g.want(fails("EACCES"), wire.Rm, g.home+"/fe/name\x00")
		g.ok(wire.Rm, g.home+"/fe\x00")
		c.want(fails("ENOENT"), wire.Read, g.home+"/fe/name\x00")
	},
	"privileged requests": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		for typ, payload := range map[wire.Type]string{
			wire.Introduce: g.dom.String() + "\x001\x001\x00", wire.Release: g.dom.String() + "\x00",
			wire.Resume: g.dom.String() + "\x00", wire.SetTarget: g.dom.String() + "\x000\x00",
			wire.Control: "help\x00", wire.IsDomainIntroduced: g.dom.String() + "\x00",
		} {
			g.want(fails("EACCES"), typ, payload)
		}
		g.want("/local/domain/"+g.dom.String()+"\x00", wire.GetDomainPath, g.dom.String()+"\x00")
	},
	"relative paths are below its own": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		g.ok(wire.Watch, "xenchan-test\x00w\x00")
		g.wantEvents("xenchan-test=w")
		g.want(fails("EEXIST"), wire.Watch, "/local/domain/"+g.dom.String()+"/xenchan-test\x00w\x00")
	},
	"transactions": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		tx := g.start()
		g.okTx(tx, wire.Write, g.home+"/a\x00v")
		g.wantTx(tx, fails("EACCES"), wire.Write, dir+"/no\x00v")
		c.want(fails("ENOENT"), wire.Read, g.home+"/a\x00")
		g.okTx(tx, wire.TransactionEnd, "T\x00")
		c.want("v", wire.Read, g.home+"/a\x00")
		mine := g.start()
		c.wantTx(mine+1000, fails("ENOENT"), wire.Read, g.home+"\x00")
	},
}

// guestCCases hold for C xenstored with its default quotas.
var guestCCases = map[string]func(*testing.T, suite){
	"events need the right to read": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		p := dir + "/p"
		g.ok(wire.Watch, p+"\x00w\x00")
		g.wantEvents(p + "=w")
		change := func(typ wire.Type, payload string, want ...string) {
			t.Helper()
			c.ok(typ, payload)
			g.wantEvents(want...)
		}
		change(wire.Write, p+"/x\x00")
		change(wire.SetPerms, p+"\x00r0\x00", p+"=w")
		change(wire.Write, p+"/y\x00", p+"/y=w")
		change(wire.SetPerms, p+"/x\x00n0\x00", p+"/x=w")
		change(wire.Write, p+"/x\x00", p+"/x=w") // the parent is readable
		change(wire.Rm, p+"/x\x00", p+"/x=w")
		change(wire.Rm, p+"/y\x00", p+"/y=w")
		change(wire.SetPerms, p+"\x00n0\x00", p+"=w") // it was readable
		change(wire.Write, p+"\x00")
		change(wire.Rm, p+"\x00")
	},
	"a missing node in a directory that one may only write": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		c.ok(wire.Mkdir, dir+"/w\x00")
		c.ok(wire.SetPerms, dir+"/w\x00w0\x00")
		g.want(fails("EACCES"), wire.Read, dir+"/w/none\x00")
		g.ok(wire.Rm, dir+"/w/none\x00")
		g.want(fails("ENOENT"), wire.Rm, dir+"/w/none/none\x00")
		g.want(fails("ENOENT"), wire.SetPerms, fmt.Sprintf("%s/w/none\x00n%d\x00", dir, g.dom))
		g.want(fails("EACCES"), wire.Rm, "/\x00")
	},
	"privilege is checked before the payload": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		for _, typ := range []wire.Type{wire.Introduce, wire.Release, wire.Resume, wire.SetTarget, wire.Control, wire.IsDomainIntroduced} {
			g.wantTx(999999, fails("EACCES"), typ, "")
		}
		if got := g.do(wire.SetPerms, 0, fmt.Sprintf("@releaseDomain\x00n%d\x00", g.dom)); got == "OK\x00" {
			t.Error("a guest may change the permissions of a special node")
		}
	},
	"quota of permissions": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		set := fmt.Sprintf("%s\x00n%d\x00r0\x00r1\x00r2\x00r3\x00", g.home, g.dom)
		g.ok(wire.SetPerms, set)
		g.want(fails("ENOSPC"), wire.SetPerms, set+"r4\x00")
		c.ok(wire.SetPerms, set+"r4\x00")
	},
	"quota of watches": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		allowed := make([]string, 129) // C allows one more than it says
		for i := range allowed {
			allowed[i] = fmt.Sprintf("%s\x00%d\x00", g.home, i)
		}
		for i, got := range g.many(wire.Watch, 0, allowed) {
			if got != "OK\x00" {
				t.Errorf("watch %d = %q", i, got)
			}
		}
		g.want(fails("E2BIG"), wire.Watch, g.home+"\x00more\x00")
		g.ok(wire.Unwatch, g.home+"\x000\x00")
		g.ok(wire.Watch, g.home+"\x00more\x00")
		g.ok(wire.ResetWatches, "\x00")
		g.ok(wire.Watch, g.home+"\x00more\x00")
	},
	"quota of transactions": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		tx := g.start()
		for range 10 {
			g.start()
		}
		g.want(fails("ENOSPC"), wire.TransactionStart, "\x00")
		g.okTx(tx, wire.TransactionEnd, "F\x00")
		g.start()
	},
	"quota of a transaction": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		tx := g.start()
		g.okTx(tx, wire.Write, g.home+"/made\x00")
		touch := make([]string, 1100)
		for i := range touch {
			touch[i] = fmt.Sprintf("%s/n%d\x00", g.home, i)
		}
		replies := g.many(wire.Read, tx, touch)
		if n := slices.IndexFunc(replies, func(r string) bool { return r != fails("ENOENT") }); n < 1000 || n > 1024 || replies[n] != fails("ENOSPC") {
			t.Errorf("touching node %d = %q, want ENOSPC near 1024", n, replies[max(n, 0)])
		}
		g.wantTx(tx, fails("ENOMEM"), wire.TransactionEnd, "T\x00")
		c.want("", wire.Directory, g.home+"\x00")
	},
	"quota of a node": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		g.ok(wire.Write, g.home+"/v\x00"+string(make([]byte, 2015)))
		g.want(fails("ENOSPC"), wire.Write, g.home+"/v\x00"+string(make([]byte, 2016)))
		g.want(fails("ENOSPC"), wire.Write, g.home+"/v/child\x00")
		c.ok(wire.Write, g.home+"/v\x00"+string(make([]byte, 3000)))
	},
	"quota of nodes": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g := s.guest(t, c, dir)
		wanted := make([]string, 1100)
		for i := range wanted {
			wanted[i] = fmt.Sprintf("%s/%d/%d\x00", g.home, i/100, i%100)
		}
		replies := g.many(wire.Mkdir, 0, wanted)
		if n := slices.IndexFunc(replies, func(r string) bool { return r != "OK\x00" }); n < 979 || replies[n] != fails("ENOSPC") {
			t.Errorf("node %d = %q, want ENOSPC near 1000", n, replies[max(n, 0)])
		}
		g.ok(wire.Rm, g.home+"/0\x00")
		g.ok(wire.Mkdir, g.home+"/again\x00")
	},
}

// releaseCases are about the end of a domain.
var releaseCases = map[string]func(*testing.T, suite){
	"special watches": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		w := s.open(t)
		w.ok(wire.Watch, "@introduceDomain\x00i\x00")
		w.ok(wire.Watch, "@releaseDomain\x00r\x00")
		w.sync()
		g := s.guest(t, c, dir)
		w.wantEvents("@introduceDomain=i")
		c.want("T\x00", wire.IsDomainIntroduced, g.dom.String()+"\x00")
		s.Release(t, g.dom)
		w.wantEvents("@releaseDomain=r")
		c.want("F\x00", wire.IsDomainIntroduced, g.dom.String()+"\x00")
	},
	"special watches of a guest": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g, h := s.guest(t, c, dir), s.guest(t, c, dir)
		t.Cleanup(func() { c.ok(wire.SetPerms, "@releaseDomain\x00n0\x00") })
		for _, x := range []guest{g, h} {
			x.ok(wire.Watch, "@releaseDomain\x00r\x00")
			x.wantEvents("@releaseDomain=r") // the first one comes in any case
		}
		c.ok(wire.SetPerms, "@releaseDomain\x00n0\x00r"+g.dom.String()+"\x00")
		s.Release(t, s.guest(t, c, dir).dom)
		g.wantEvents("@releaseDomain=r")
		h.wantEvents()
	},
	"nodes of the dead go": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		g, h := s.guest(t, c, dir), s.guest(t, c, dir)
		g.ok(wire.Write, g.home+"/mine/deep\x00v")
		c.ok(wire.SetPerms, g.home+"/mine/deep\x00n0\x00")
		c.ok(wire.Write, dir+"/kept/his\x00v")
		c.ok(wire.SetPerms, fmt.Sprintf("%s/kept\x00n0\x00b%d\x00r%d\x00", dir, g.dom, h.dom))
		c.ok(wire.SetPerms, fmt.Sprintf("%s/kept/his\x00n%d\x00", dir, g.dom))
		w := s.open(t)
		w.ok(wire.Watch, g.home+"/mine/deep\x00deep\x00")
		w.ok(wire.Watch, dir+"/kept\x00kept\x00")
		w.sync()
		s.Release(t, g.dom)
		w.wantEventSet(g.home+"/mine/deep=deep", dir+"/kept/his=kept")
		c.want(fails("ENOENT"), wire.Read, g.home+"\x00")
		c.want("", wire.Directory, dir+"/kept\x00")
		h.want("", wire.Read, dir+"/kept\x00")
	},
}

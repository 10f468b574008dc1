package storetest

import (
	"slices"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/xenstore/wire"
)

var watchCases = map[string]func(*testing.T, suite){
	"fires once at once": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Watch, dir+"/none\x00token 1\x00")
		c.wantEvents(dir + "/none=token 1")
		c.ok(wire.Watch, dir+"/none\x00\x00")
		c.wantEvents(dir + "/none=")
		c.wantEvents()
	},
	"the reply comes before the first event": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Watch, dir+"\x00w\x00")
		if !slices.Equal(c.arrived, []string{"reply"}) {
			t.Errorf("order %q, want the reply first", c.arrived)
		}
		c.wantEvents(dir + "=w")
	},
	"node and descendants": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		w := s.open(t)
		w.ok(wire.Watch, dir+"\x00w\x00")
		w.sync()
		change := func(typ wire.Type, payload string, want ...string) {
			t.Helper()
			c.ok(typ, payload)
			w.wantEvents(want...)
		}
		change(wire.Write, dir+"/a\x00v", dir+"/a=w")
		change(wire.Write, dir+"/a\x00v", dir+"/a=w")
		change(wire.Write, dir+"/b/c/d\x00v", dir+"/b/c/d=w") // not for the new parents
		change(wire.Mkdir, dir+"/e\x00", dir+"/e=w")
		change(wire.SetPerms, dir+"/a\x00n0\x00r1\x00", dir+"/a=w")
		change(wire.Rm, dir+"/a\x00", dir+"/a=w")
		change(wire.Rm, dir+"/b\x00", dir+"/b=w")
		c.do(wire.Read, 0, dir+"/e\x00")
		c.do(wire.Read, 0, dir+"x\x00")
		w.wantEvents()
	},
	"not for neighbours": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		w := s.open(t)
		w.ok(wire.Watch, dir+"/ab\x00w\x00")
		w.sync()
		c.ok(wire.Write, dir+"/a\x00")
		c.ok(wire.Write, dir+"/abc\x00")
		c.ok(wire.Write, dir+"\x00")
		w.wantEvents()
		c.ok(wire.Write, dir+"/ab/x\x00")
		w.wantEvents(dir + "/ab/x=w")
	},
	"removal above gives the watched path": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		w := s.open(t)
		c.ok(wire.Write, dir+"/a/b/c/d\x00v")
		for _, watch := range []string{"/a\x00top\x00", "/a/b\x00mid\x00", "/a/b/c/d\x00low\x00"} {
			w.ok(wire.Watch, dir+watch)
		}
		w.sync()
		c.ok(wire.Rm, dir+"/a\x00")
		w.wantEventSet(dir+"/a=top", dir+"/a/b=mid", dir+"/a/b/c/d=low")
	},
	"relative stays relative": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		back := strings.TrimPrefix(dir, "/tool/")
		home := "/local/domain/0/"
		t.Cleanup(func() { c.ok(wire.Rm, home+back+"\x00") })
		w := s.open(t)
		w.ok(wire.Watch, back+"\x00rel\x00")
		w.ok(wire.Watch, home+back+"\x00abs\x00")
		w.wantEvents(back+"=rel", home+back+"=abs")
		c.ok(wire.Write, home+back+"/x\x00v")
		w.wantEventSet(back+"/x=rel", home+back+"/x=abs")
		c.ok(wire.Rm, home+back+"\x00")
		w.wantEventSet(back+"=rel", home+back+"=abs")
		w.ok(wire.Unwatch, back+"\x00rel\x00")
	},
	"twice": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Watch, dir+"\x00w\x00")
		c.want(fails("EEXIST"), wire.Watch, dir+"\x00w\x00")
		c.ok(wire.Watch, dir+"\x00w2\x00")
		s.open(t).ok(wire.Watch, dir+"\x00w\x00") // another connection's is another watch
		c.wantEvents(dir+"=w", dir+"=w2")
		c.ok(wire.Write, dir+"/x\x00")
		c.wantEventSet(dir+"/x=w", dir+"/x=w2")
	},
	"unwatch": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Watch, dir+"\x00w\x00")
		c.ok(wire.Watch, dir+"\x00w2\x00")
		c.sync()
		c.want(fails("ENOENT"), wire.Unwatch, dir+"\x00other\x00")
		c.want(fails("ENOENT"), wire.Unwatch, dir+"/x\x00w\x00")
		s.open(t).want(fails("ENOENT"), wire.Unwatch, dir+"\x00w\x00")
		c.ok(wire.Unwatch, dir+"\x00w\x00")
		c.want(fails("ENOENT"), wire.Unwatch, dir+"\x00w\x00")
		c.ok(wire.Write, dir+"/x\x00")
		c.wantEvents(dir + "/x=w2")
	},
	"special nodes": func(t *testing.T, s suite) {
		c := s.open(t)
		c.ok(wire.Watch, "@introduceDomain\x00i\x00")
		c.ok(wire.Watch, "@releaseDomain\x00r\x00")
		for _, want := range []string{"@introduceDomain=i", "@releaseDomain=r"} {
			if got := decodeEvents(c.sync()); len(got) > 0 && !slices.Contains(got, want) {
				t.Errorf("events %q lack %q", got, want)
			} else if len(got) > 0 {
				break
			}
		}
		c.ok(wire.Unwatch, "@introduceDomain\x00i\x00")
		c.ok(wire.Unwatch, "@releaseDomain\x00r\x00")
	},
}

package storetest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/xenstore/wire"
)

var nodeCases = map[string]func(*testing.T, suite){
	"write and read": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.want(fails("ENOENT"), wire.Read, dir+"/a\x00")
		c.ok(wire.Write, dir+"/a\x00value")
		c.want("value", wire.Read, dir+"/a\x00")
		c.ok(wire.Write, dir+"/a\x00\x00bin\x00ary\xff\x00")
		c.want("\x00bin\x00ary\xff\x00", wire.Read, dir+"/a\x00")
		c.ok(wire.Write, dir+"/a\x00")
		c.want("", wire.Read, dir+"/a\x00")
		s.open(t).want("", wire.Read, dir+"/a\x00")
	},
	"write makes parents": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Write, dir+"/a/b/c\x00v")
		c.want("", wire.Read, dir+"/a\x00")
		c.want("b\x00", wire.Directory, dir+"/a\x00")
		c.want("c\x00", wire.Directory, dir+"/a/b\x00")
		c.want("", wire.Directory, dir+"/a/b/c\x00")
		c.want(fails("ENOENT"), wire.Directory, dir+"/a/b/c/d\x00")
	},
	"mkdir keeps what exists": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Write, dir+"/a\x00v")
		c.ok(wire.Mkdir, dir+"/a\x00")
		c.want("v", wire.Read, dir+"/a\x00")
		c.ok(wire.Mkdir, dir+"/x/y\x00")
		c.want("", wire.Read, dir+"/x/y\x00")
		c.want("y\x00", wire.Directory, dir+"/x\x00")
		c.ok(wire.Mkdir, "/\x00")
	},
	"rm": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Write, dir+"/a/b/c\x00v")
		c.ok(wire.Rm, dir+"/a\x00")
		for _, path := range []string{"/a", "/a/b", "/a/b/c"} {
			c.want(fails("ENOENT"), wire.Read, dir+path+"\x00")
		}
		c.ok(wire.Rm, dir+"/a\x00") // absent, but its parent exists
		c.want("", wire.Directory, dir+"\x00")
		c.ok(wire.Write, dir+"/a/b\x00again")
		c.want("", wire.Directory, dir+"/a/b\x00")
	},
	"permissions": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Write, dir+"/a\x00v")
		c.ok(wire.SetPerms, dir+"/a\x00n0\x00r1\x00b2\x00w3\x00")
		c.want("n0\x00r1\x00b2\x00w3\x00", wire.GetPerms, dir+"/a\x00")
		c.ok(wire.Write, dir+"/a/child\x00v")
		c.want("n0\x00r1\x00b2\x00w3\x00", wire.GetPerms, dir+"/a/child\x00")
		c.ok(wire.SetPerms, dir+"/a\x00r0\x00")
		c.want("n0\x00r1\x00b2\x00w3\x00", wire.GetPerms, dir+"/a/child\x00")
		c.want(fails("ENOENT"), wire.SetPerms, dir+"/none\x00n0\x00")
		c.want(fails("ENOENT"), wire.GetPerms, dir+"/none\x00")
		for _, bad := range []string{"", "\x00", "\x00n0", "\x00x0\x00", "\x00n\x00", "\x00n0x\x00", "\x00n0\x00zz\x00"} {
			c.want(fails("EINVAL"), wire.SetPerms, dir+"/a"+bad)
		}
		c.want("r0\x00", wire.GetPerms, dir+"/a\x00")
	},
	"relative paths are below domain 0's": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		back := strings.TrimPrefix(dir, "/tool/")
		t.Cleanup(func() { c.ok(wire.Rm, back+"\x00") })
		c.ok(wire.Write, back+"\x00v")
		c.want("v", wire.Read, "/local/domain/0/"+back+"\x00")
		c.want("v", wire.Read, back+"\x00")
	},
	"pipelined requests are answered in order": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		var ids []uint32
		for i := range 15 { // fewer than any daemon's limit of outstanding requests
			ids = append(ids, c.send(wire.Write, 0, fmt.Sprintf("%s/n%d\x00v", dir, i)))
		}
		for _, id := range ids {
			if m, ok := c.receive(); !ok || m.ReqID != id || m.Type != wire.Write {
				t.Fatalf("got %v with req_id %d, want WRITE with %d", m.Type, m.ReqID, id)
			}
		}
	},
}

var pathCases = map[string]func(*testing.T, suite){
	"bad ones": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		bad := []string{
			"", "//", dir + "/", dir + "//x", dir + "/a.b", dir + "/a:b", dir + "/a+b", dir + "/a b",
			dir + "/\xc3\xa9", dir + "/a\x7f", dir + "/a\n", "a.b", "a/",
		}
		for _, path := range bad {
			for _, typ := range []wire.Type{wire.Read, wire.Directory, wire.GetPerms, wire.Mkdir, wire.Rm, wire.Write} {
				c.want(fails("EINVAL"), typ, path+"\x00")
			}
			c.want(fails("EINVAL"), wire.SetPerms, path+"\x00n0\x00")
		}
		for _, path := range bad {
			c.want(fails("EINVAL"), wire.Watch, path+"\x00token\x00")
		}
	},
	"good ones": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		for _, name := range []string{"AZaz09-_@", "@", "-", "_", "0", strings.Repeat("n", 900)} {
			c.ok(wire.Write, dir+"/"+name+"\x00v")
			c.want("v", wire.Read, dir+"/"+name+"\x00")
		}
		c.ok(wire.Mkdir, dir+strings.Repeat("/d", 300)+"\x00")
		c.want("d\x00", wire.Directory, dir+strings.Repeat("/d", 299)+"\x00")
	},
}

var messageCases = map[string]func(*testing.T, suite){
	"malformed payloads": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.want(fails("EINVAL"), wire.Write, dir+"/x")
		for _, typ := range []wire.Type{wire.Watch, wire.Unwatch} {
			c.want(fails("EINVAL"), typ, dir+"\x00")
			c.want(fails("EINVAL"), typ, dir+"\x00token")
			c.want(fails("EINVAL"), typ, dir+"\x00token\x00more\x00")
		}
		c.want("", wire.Directory, dir+"\x00")
	},
	"domains": func(t *testing.T, s suite) {
		c := s.open(t)
		c.want("/local/domain/5\x00", wire.GetDomainPath, "5\x00")
		c.want("/local/domain/0\x00", wire.GetDomainPath, "0\x00")
		c.want("F\x00", wire.IsDomainIntroduced, "32700\x00")
	},
	"two connections have replies of their own": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		d := s.open(t)
		c.send(wire.Write, 0, dir+"/c\x00")
		d.send(wire.Write, 0, dir+"/d\x00")
		d.receive()
		c.receive()
		d.ok(wire.Rm, dir+"/c\x00")
		c.want("d\x00", wire.Directory, dir+"\x00")
	},
	"a client may leave in the middle of a message": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		other := s.Open(t)
		if _, err := other.Write(wire.Append(nil, wire.Message{Type: wire.Rm, Payload: []byte(dir + "\x00")})[:20]); err != nil {
			t.Fatal(err)
		}
		other.Close()
		c.want("", wire.Directory, dir+"\x00")
	},
}

package storetest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// cCases hold for C xenstored alone.
var cCases = map[string]func(*testing.T, suite){
	"conflicts": func(t *testing.T, s suite) {
		for _, x := range cConflicts {
			t.Run(x.name, func(t *testing.T) { checkConflict(t, s, x) })
		}
	},
	"a node is seen as at the first touch": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Write, dir+"/x\x00one")
		tx := c.start()
		c.ok(wire.Write, dir+"/x\x00two")
		c.wantTx(tx, "two", wire.Read, dir+"/x\x00")
		c.okTx(tx, wire.TransactionEnd, "T\x00")
	},
	"directories are in order of creation": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		for _, name := range []string{"b", "10", "a", "2"} {
			c.ok(wire.Mkdir, dir+"/"+name+"\x00")
		}
		c.want("b\x0010\x00a\x002\x00", wire.Directory, dir+"\x00")
		c.ok(wire.Rm, dir+"/10\x00")
		c.ok(wire.Mkdir, dir+"/10\x00")
		c.want("b\x00a\x002\x0010\x00", wire.Directory, dir+"\x00")
	},
	"rm below what does not exist": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.want(fails("ENOENT"), wire.Rm, dir+"/none/none\x00")
		c.want(fails("ENOENT"), wire.Rm, dir+"/none/none/none\x00")
	},
	"order of events": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Write, dir+"/a/b/c\x00v")
		c.ok(wire.Watch, dir+"\x00top\x00")
		c.ok(wire.Watch, dir+"/a\x00mid\x00")
		c.ok(wire.Watch, dir+"/a/b/c\x00low\x00")
		c.sync()
		c.ok(wire.Rm, dir+"/a\x00") // what is below goes first
		if last := c.arrived[len(c.arrived)-1]; last != "reply" || len(c.arrived) != 4 {
			t.Errorf("order %q, want three events and then the reply", c.arrived)
		}
		c.wantEvents(dir+"/a/b/c=low", dir+"/a=top", dir+"/a=mid")
		tx := c.start()
		c.okTx(tx, wire.Write, dir+"/2\x00v")
		c.okTx(tx, wire.Write, dir+"/1\x00v")
		c.okTx(tx, wire.Write, dir+"/2\x00w")
		c.okTx(tx, wire.Write, dir+"/3\x00v")
		c.okTx(tx, wire.Rm, dir+"/3\x00")
		c.okTx(tx, wire.TransactionEnd, "T\x00")
		c.wantEvents(dir+"/2=top", dir+"/1=top")
		c.ok(wire.Rm, dir+"/none\x00")
		c.ok(wire.Mkdir, dir+"/1\x00")
		c.wantEvents()
	},
	"large directories come in parts": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		var want strings.Builder
		for i := range 600 {
			fmt.Fprintf(&want, "name%d\x00", i)
			c.ok(wire.Mkdir, fmt.Sprintf("%s/name%d\x00", dir, i))
		}
		c.want(fails("E2BIG"), wire.Directory, dir+"\x00")
		var got, generation string
		for !strings.HasSuffix(got, "\x00\x00") {
			reply := c.do(wire.DirectoryPart, 0, fmt.Sprintf("%s\x00%d\x00", dir, len(got)))
			gen, names, found := strings.Cut(reply, "\x00")
			if !found || len(reply) > wire.MaxPayload || names == "" || got != "" && gen != generation {
				t.Fatalf("at %d: %s", len(got), abbreviate(reply))
			}
			if got == "" && len(reply) < wire.MaxPayload-len("name600\x00") {
				t.Errorf("the first part has only %d bytes", len(reply))
			}
			got, generation = got+names, gen
		}
		if got != want.String()+"\x00" {
			t.Errorf("the parts make %s", abbreviate(got))
		}
		c.ok(wire.Mkdir, dir+"/more\x00")
		if reply := c.do(wire.DirectoryPart, 0, dir+"\x000\x00"); strings.HasPrefix(reply, generation+"\x00") {
			t.Errorf("the generation %s outlives a change", generation)
		}
	},
	"parts of small directories": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Mkdir, dir+"/one\x00")
		c.ok(wire.Mkdir, dir+"/two\x00")
		part := func(offset string) string {
			_, names, _ := strings.Cut(c.do(wire.DirectoryPart, 0, dir+"\x00"+offset+"\x00"), "\x00")
			return names
		}
		for offset, want := range map[string]string{"0": "one\x00two\x00\x00", "4": "two\x00\x00", "2": "e\x00two\x00\x00", "8": "\x00", "100": "\x00"} {
			if got := part(offset); got != want {
				t.Errorf("part at %s is %q, want %q", offset, got, want)
			}
		}
		c.want(fails("ENOENT"), wire.DirectoryPart, dir+"/none\x000\x00")
		c.want(fails("EINVAL"), wire.DirectoryPart, dir+"\x00")
		c.want(fails("EINVAL"), wire.DirectoryPart, dir+"\x000")
	},
	"unknown types": func(t *testing.T, s suite) {
		c := s.open(t)
		for _, typ := range []wire.Type{20, 99, 0xffff, 0xffffffff, wire.WatchEvent} {
			c.want(fails("ENOSYS"), typ, "x\x00")
			c.wantTx(999999, fails("ENOSYS"), typ, "")
		}
		c.want("T\x00", wire.IsDomainIntroduced, "0\x00")
	},
	"the transaction is looked up before the payload": func(t *testing.T, s suite) {
		c := s.open(t)
		for _, typ := range []wire.Type{
			wire.Read, wire.Write, wire.SetPerms, wire.TransactionStart, wire.GetDomainPath,
			wire.ResetWatches, wire.IsDomainIntroduced, wire.Control, wire.DirectoryPart, wire.Introduce,
		} {
			c.wantTx(999999, fails("ENOENT"), typ, "")
		}
	},
	"an oversized message ends the connection": func(t *testing.T, s suite) {
		c := s.open(t)
		c.send(wire.Read, 0, strings.Repeat("x", wire.MaxPayload+1))
		if m, ok := c.receive(); ok {
			t.Errorf("got a reply of type %v, want the end of the connection", m.Type)
		}
		s.open(t).want("T\x00", wire.IsDomainIntroduced, "0\x00")
	},
	"largest value": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		value := strings.Repeat("x", wire.MaxPayload-len(dir)-len("/big")-1)
		c.ok(wire.Write, dir+"/big\x00"+value)
		c.want(value, wire.Read, dir+"/big\x00")
	},
	"the root stays": func(t *testing.T, s suite) {
		s.open(t).want(fails("EINVAL"), wire.Rm, "/\x00") // oxenstored would really do it
	},
	"the longest path": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		longest := dir + "/" + strings.Repeat("n", 2048-len(dir)-1)
		c.ok(wire.Mkdir, longest+"\x00")
		c.want("", wire.Read, longest+"\x00")
		c.want(fails("EINVAL"), wire.Mkdir, longest+"n\x00")
		for _, tooLong := range []string{"/" + strings.Repeat("a", wire.MaxAbsPath), strings.Repeat("a", wire.MaxRelPath+1)} {
			c.want(fails("EINVAL"), wire.Mkdir, tooLong+"\x00")
			c.want(fails("EINVAL"), wire.Watch, tooLong+"\x00token\x00")
		}
		home := "/local/domain/12345/"
		c.want(fails("ENOENT"), wire.Read, home+strings.Repeat("n", 2048)+"\x00")
		c.want(fails("EINVAL"), wire.Read, home+strings.Repeat("n", 2049)+"\x00")
		c.want(fails("ENOENT"), wire.Read, strings.Repeat("n", wire.MaxRelPath)+"\x00")
	},
	"malformed payloads": func(t *testing.T, s suite) {
		// Not those of READ, DIRECTORY, GET_PERMS, MKDIR and RM: C xenstored 4.17
		// answers them with whatever errno was left over, and if that is none,
		// it does not answer and then ends with a failed assertion.
		c := s.open(t)
		for _, typ := range []wire.Type{wire.Write, wire.GetDomainPath, wire.IsDomainIntroduced} {
			c.want(fails("EINVAL"), typ, "")
		}
		tx := c.start()
		c.wantTx(tx, fails("EINVAL"), wire.TransactionEnd, "")
		c.wantTx(tx, fails("EINVAL"), wire.TransactionEnd, "T")
		c.okTx(tx, wire.TransactionEnd, "F\x00")
		c.want("T\x00", wire.IsDomainIntroduced, "0\x00")
	},
	"special nodes are no paths": func(t *testing.T, s suite) {
		c := s.open(t)
		for _, typ := range []wire.Type{wire.Read, wire.Directory, wire.GetPerms, wire.Mkdir, wire.Rm, wire.Write} {
			c.want(fails("EINVAL"), typ, "@releaseDomain\x00")
			c.want(fails("EINVAL"), typ, "@x\x00")
		}
	},
	"transaction ids of watches are ignored": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		const unknown = 999999
		c.okTx(unknown, wire.Watch, dir+"\x00w\x00")
		c.wantEvents(dir + "=w")
		c.okTx(unknown, wire.Unwatch, dir+"\x00w\x00")
	},
	"removal above does not concern watches of absent nodes": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Write, dir+"/a\x00v")
		c.ok(wire.Watch, dir+"/a/none\x00none\x00")
		c.sync()
		c.ok(wire.Rm, dir+"/a\x00")
		c.wantEvents()
	},
	"many unread events do not hold up others": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		stream := s.Open(t) // never read
		defer stream.Close()
		b := wire.Append(nil, wire.Message{Type: wire.Watch, Payload: []byte(dir + "\x00w\x00")})
		if _, err := stream.Write(b); err != nil {
			t.Fatal(err)
		}
		writes := make([]string, 1500) // more than a socket takes
		for i := range writes {
			writes[i] = dir + "/" + strings.Repeat("n", 100+i%50) + "\x00v"
		}
		for i, got := range c.many(wire.Write, 0, writes) {
			if got != "OK\x00" {
				t.Fatalf("write %d = %q", i, got)
			}
		}
	},
	"control": func(t *testing.T, s suite) {
		c := s.open(t)
		if help := c.do(wire.Control, 0, "help\x00"); !strings.Contains(help, "print") {
			t.Errorf("help is %q", help)
		}
		c.ok(wire.Control, "print\x00xenchan test\x00")
		c.want(fails("EINVAL"), wire.Control, "")
		c.want(fails("EINVAL"), wire.Control, "help")
		c.want(fails("EINVAL"), wire.Control, "no-such-command\x00")
	},
	"requests about domains": func(t *testing.T, s suite) {
		c := s.open(t)
		c.want(fails("EINVAL"), wire.Release, "0\x00")
		c.want(fails("ENOENT"), wire.Release, "32700\x00")
		c.want(fails("ENOENT"), wire.Resume, "32700\x00")
		c.want(fails("ENOENT"), wire.SetTarget, "32700\x0032701\x00")
		c.want(fails("EINVAL"), wire.SetTarget, "32700\x00")
		c.want(fails("EINVAL"), wire.Introduce, "32700\x00")
		c.want(fails("EINVAL"), wire.Introduce, "32700\x001\x000\x00")
		c.ok(wire.SetPerms, "@releaseDomain\x00n0\x00")
		c.want(fails("EINVAL"), wire.GetPerms, "@releaseDomain\x00")
	},
}

// ocamlCases hold for oxenstored alone.
var ocamlCases = map[string]func(*testing.T, suite){
	"directories are sorted": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		for _, name := range []string{"b", "10", "a", "2"} {
			c.ok(wire.Mkdir, dir+"/"+name+"\x00")
		}
		c.want("10\x002\x00a\x00b\x00", wire.Directory, dir+"\x00")
	},
	"largest value": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.ok(wire.Write, dir+"/v\x00"+strings.Repeat("x", 2048))
		c.want(fails("E2BIG"), wire.Write, dir+"/v\x00"+strings.Repeat("x", 2049))
	},
	"unknown transactions": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		c.wantTx(999999, fails("EIO"), wire.Read, dir+"\x00")
		c.wantTx(999999, fails("EIO"), wire.TransactionEnd, "T\x00")
	},
	"large directories come whole": func(t *testing.T, s suite) {
		c, dir := s.dir(t)
		for i := range 600 {
			c.ok(wire.Mkdir, fmt.Sprintf("%s/name%d\x00", dir, i))
		}
		if got := c.do(wire.Directory, 0, dir+"\x00"); strings.Count(got, "\x00") != 600 {
			t.Errorf("directory is %s", abbreviate(got))
		}
	},
}

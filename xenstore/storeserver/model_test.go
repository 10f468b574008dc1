package storeserver

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// model is the store as one would write it without a care for speed: a map of
// plain values, without watches, quotas or an order.
type model map[string]modelNode

type modelNode struct {
	value string
	perms string // with NULs
	owner xen.DomID
	guest string // access of the guest: "", "r", "w" or "b"
}

const modelGuest xen.DomID = 5

func (m model) may(dom xen.DomID, path, access string) bool {
	n := m[path]
	return dom == 0 || n.owner == dom || n.guest == "b" || n.guest == access
}

// check is the errno for a wish to use path, 0 when it is there and may be used.
func (m model) check(dom xen.DomID, path, access string) syscall.Errno {
	_, there := m[path]
	at := path
	for _, there := m[at]; !there; _, there = m[at] {
		at, _ = split(at)
	}
	switch {
	case !m.may(dom, at, access):
		return syscall.EACCES
	case !there:
		return syscall.ENOENT
	}
	return 0
}

func (m model) write(dom xen.DomID, path, value string, replace bool) syscall.Errno {
	switch errno := m.check(dom, path, "w"); {
	case errno == syscall.EACCES:
		return errno
	case errno == 0 && !replace:
		return 0
	}
	if _, there := m[path]; !there {
		m.make(dom, path)
	}
	n := m[path]
	n.value = value
	m[path] = n
	return 0
}

func (m model) make(dom xen.DomID, path string) {
	up, _ := split(path)
	if _, there := m[up]; !there {
		m.make(dom, up)
	}
	n := m[up]
	n.value = ""
	if dom != 0 {
		_, rest, _ := strings.Cut(n.perms, "\x00")
		n.owner, n.perms = dom, n.perms[:1]+dom.String()+"\x00"+rest
	}
	m[path] = n
}

func (m model) rm(dom xen.DomID, path string) syscall.Errno {
	if errno := m.check(dom, path, "w"); errno == syscall.ENOENT {
		up, _ := split(path)
		if _, there := m[up]; there {
			return 0
		}
		return errno
	} else if errno != 0 {
		return errno
	}
	for p := range m {
		if p == path || strings.HasPrefix(p, path+"/") {
			delete(m, p)
		}
	}
	return 0
}

func (m model) setPerms(dom xen.DomID, path string, owner xen.DomID, guest string) syscall.Errno {
	if _, there := m[path]; !there {
		return m.check(dom, path, "w")
	}
	if dom != 0 && m[path].owner != dom {
		return syscall.EACCES
	}
	if dom != 0 && owner != dom {
		return syscall.EPERM
	}
	n := m[path]
	n.owner, n.guest = owner, guest
	n.perms = fmt.Sprintf("n%d\x00", owner)
	if guest != "" {
		n.perms += fmt.Sprintf("%s%d\x00", guest, modelGuest)
	}
	m[path] = n
	return 0
}

func (m model) list(path string) []string {
	var names []string
	for p := range m {
		if up, name := split(p); up == path && p != "/" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// modelClient is one connection with at most one transaction. Which of them
// conflict is held to C's rule by the suite; here, one that ends well must have
// seen and done what it would have seen and done alone, at its end.
type modelClient struct {
	conn  net.Conn
	dom   xen.DomID
	tx    uint32
	steps []func(model) (string, syscall.Errno)
	saw   []string
}

func (c *modelClient) ask(t *rapid.T, typ wire.Type, payload string) (string, syscall.Errno) {
	b := wire.Append(nil, wire.Message{Type: typ, TxID: c.tx, ReqID: 1, Payload: []byte(payload)})
	if _, err := c.conn.Write(b); err != nil {
		t.Fatal(err)
	}
	var d wire.Decoder
	buf := make([]byte, 4096)
	for {
		m, whole, err := d.Next()
		if err != nil {
			t.Fatal(err)
		}
		if whole && m.Type == wire.Error {
			return "", wire.ErrnoOf(strings.TrimSuffix(string(m.Payload), "\x00"))
		}
		if whole {
			return string(m.Payload), 0
		}
		n, err := c.conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		d.Feed(buf[:n])
	}
}

// step draws one request: its bytes, and what it does to a model.
func step(t *rapid.T, dom xen.DomID) (wire.Type, string, func(model) (string, syscall.Errno)) {
	path := "/m"
	for range rapid.IntRange(0, 3).Draw(t, "depth") {
		path += "/" + rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name")
	}
	value := rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "value")
	owner := rapid.SampledFrom([]xen.DomID{0, modelGuest}).Draw(t, "owner")
	guest := rapid.SampledFrom([]string{"", "r", "w", "b"}).Draw(t, "guest")
	done := func(errno syscall.Errno) (string, syscall.Errno) {
		if errno != 0 {
			return "", errno
		}
		return "OK\x00", 0
	}
	read := func(answer func(model) string) func(model) (string, syscall.Errno) {
		return func(m model) (string, syscall.Errno) {
			if errno := m.check(dom, path, "r"); errno != 0 {
				return "", errno
			}
			return answer(m), 0
		}
	}
	switch rapid.IntRange(0, 6).Draw(t, "op") {
	case 0:
		return wire.Write, path + "\x00" + value, func(m model) (string, syscall.Errno) { return done(m.write(dom, path, value, true)) }
	case 1:
		return wire.Mkdir, path + "\x00", func(m model) (string, syscall.Errno) { return done(m.write(dom, path, "", false)) }
	case 2:
		if path == "/m" {
			path += "/a"
		}
		return wire.Rm, path + "\x00", func(m model) (string, syscall.Errno) { return done(m.rm(dom, path)) }
	case 3:
		perms := fmt.Sprintf("n%d\x00", owner)
		if guest != "" {
			perms += fmt.Sprintf("%s%d\x00", guest, modelGuest)
		}
		return wire.SetPerms, path + "\x00" + perms, func(m model) (string, syscall.Errno) { return done(m.setPerms(dom, path, owner, guest)) }
	case 4:
		return wire.GetPerms, path + "\x00", read(func(m model) string { return m[path].perms })
	case 5:
		return wire.Directory, path + "\x00", read(func(m model) string { return string(wire.JoinNUL(m.list(path)...)) })
	default:
		return wire.Read, path + "\x00", read(func(m model) string { return m[path].value })
	}
}

// sorted makes a directory listing comparable.
func sorted(typ wire.Type, reply string) string {
	if typ != wire.Directory {
		return reply
	}
	names, _ := wire.SplitNUL([]byte(reply))
	slices.Sort(names)
	return string(wire.JoinNUL(names...))
}

func (c *modelClient) request(t *rapid.T, m model) {
	typ, payload, run := step(t, c.dom)
	got, errno := c.ask(t, typ, payload)
	got = sorted(typ, got)
	if c.tx != 0 {
		c.steps = append(c.steps, run)
		c.saw = append(c.saw, fmt.Sprint(got, errno))
		return
	}
	if want, wantErrno := run(m); got != want || errno != wantErrno {
		t.Fatalf("domain %d: %v %q = %q, %v; want %q, %v", c.dom, typ, payload, got, errno, want, wantErrno)
	}
}

func (c *modelClient) toggleTx(t *rapid.T, m model) {
	if c.tx == 0 {
		reply, _ := c.ask(t, wire.TransactionStart, "\x00")
		fmt.Sscan(strings.TrimSuffix(reply, "\x00"), &c.tx)
		c.steps, c.saw = nil, nil
		return
	}
	_, errno := c.ask(t, wire.TransactionEnd, "T\x00")
	c.tx = 0
	if errno == syscall.EAGAIN {
		return // whether rightly is for the suite
	}
	if errno != 0 {
		t.Fatalf("domain %d: end of a transaction: %v", c.dom, errno)
	}
	for i, run := range c.steps {
		want, wantErrno := run(m)
		if c.saw[i] != fmt.Sprint(want, wantErrno) {
			t.Fatalf("domain %d: step %d of a transaction saw %s; at its end it would have seen %q, %v", c.dom, i, c.saw[i], want, wantErrno)
		}
	}
}

func TestModel(t *testing.T) { rapid.Check(t, checkModel) }

func FuzzModel(f *testing.F) {
	f.Add(make([]byte, 4096))
	f.Fuzz(rapid.MakeFuzz(checkModel))
}

// checkModel is the property that the store answers as the model does, whatever is
// asked in whatever order.
func checkModel(t *rapid.T) {
	s := New(Config{})
	defer s.Close()
	m := model{"/m": {perms: "n0\x00"}, "/": {perms: "n0\x00"}}
	clients := []*modelClient{{dom: 0}, {dom: modelGuest}, {dom: 0}}
	for _, c := range clients {
		c.conn = pipe(s, c.dom)
		defer c.conn.Close()
	}
	clients[0].ask(t, wire.Mkdir, "/m\x00")
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		c := rapid.SampledFrom(clients).Draw(t, "client")
		if rapid.IntRange(0, 5).Draw(t, "what") == 0 {
			c.toggleTx(t, m)
			continue
		}
		c.request(t, m)
	}
	for path, n := range m {
		if path == "/" {
			continue
		}
		clients[0].tx = 0
		if got, errno := clients[0].ask(t, wire.Read, path+"\x00"); got != n.value || errno != 0 {
			t.Fatalf("%s = %q, %v; want %q", path, got, errno, n.value)
		}
	}
	if len(s.tree.nodes) != len(m)+2 { // /tool and /tool/xenstored
		t.Fatalf("%d nodes, want %d", len(s.tree.nodes), len(m)+2)
	}
}

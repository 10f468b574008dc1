package xenstore

import (
	"io"
	"maps"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/xenstore/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is the daemon's end of a connection, played by a test message by message.
type peer struct {
	t    testing.TB
	conn io.ReadWriteCloser
	d    wire.Decoder
	buf  [4096]byte
	mu   sync.Mutex // one writer at a time
}

// newPeer returns a Store and the other end of its connection.
func newPeer(t testing.TB, device bool) (*Store, *peer) {
	client, server := net.Pipe()
	var s *Store
	if device {
		s = NewDevice(client)
	} else {
		s = New(client)
	}
	t.Cleanup(func() {
		_ = server.Close()
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s, &peer{t: t, conn: server}
}

// next returns the next message; ok is false at the end of the connection.
func (p *peer) next() (m wire.Message, ok bool) {
	for {
		m, ok, err := p.d.Next()
		if err != nil {
			p.t.Errorf("peer: %v", err)
			return wire.Message{}, false
		}
		if ok {
			return m, true
		}
		n, err := p.conn.Read(p.buf[:])
		if err != nil {
			return wire.Message{}, false
		}
		p.d.Feed(p.buf[:n])
	}
}

// want returns the next message, which must be of a type.
func (p *peer) want(typ wire.Type) wire.Message {
	p.t.Helper()
	m, ok := p.next()
	if !ok || m.Type != typ {
		p.t.Errorf("peer got %v %q (%v), want %v", m.Type, m.Payload, ok, typ)
	}
	return m
}

func (p *peer) send(m wire.Message) { p.raw(wire.Append(nil, m)) }

func (p *peer) raw(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = p.conn.Write(b) // the client may be gone, which the test sees
}

func (p *peer) reply(to wire.Message, payload string) {
	to.Payload = []byte(payload)
	p.send(to)
}

func (p *peer) refuse(to wire.Message, name string) {
	to.Type, to.Payload = wire.Error, []byte(name+"\x00")
	p.send(to)
}

func (p *peer) event(path, token string) {
	p.send(wire.Message{Type: wire.WatchEvent, Payload: wire.JoinNUL(path, token)})
}

// fake is a small daemon: a tree without permissions or isolation of transactions.
type fake struct {
	*peer
	// hook sees each request first and reports whether it has dealt with it.
	// It runs with mu held.
	hook func(m wire.Message) bool

	mu        sync.Mutex
	nodes     map[string]string
	watches   [][2]string // path and token
	log       []string    // requests, as "TYPE arg arg"
	conflicts int         // how many commits to refuse
	lastTx    uint32
	tx        map[uint32]bool
	gone      chan struct{}
}

func newFake(t testing.TB, nodes map[string]string) (*Store, *fake) {
	s, p := newPeer(t, false)
	return s, startFake(p, nodes)
}

func startFake(p *peer, nodes map[string]string) *fake {
	f := &fake{peer: p, nodes: map[string]string{"/": ""}, tx: map[uint32]bool{}, gone: make(chan struct{})}
	maps.Copy(f.nodes, nodes)
	go f.serve()
	p.t.Cleanup(func() {
		_ = p.conn.Close()
		<-f.gone
	})
	return f
}

func (f *fake) serve() {
	defer close(f.gone)
	for {
		m, ok := f.next()
		if !ok {
			return
		}
		f.mu.Lock()
		f.log = append(f.log, strings.TrimSpace(m.Type.String()+" "+
			strings.TrimSuffix(strings.ReplaceAll(string(m.Payload), "\x00", " "), " ")))
		if f.hook == nil || !f.hook(m) {
			f.handle(m)
		}
		f.mu.Unlock()
	}
}

// requests is what the daemon was asked so far.
func (f *fake) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

// waitFor waits until the daemon has got a request.
func (f *fake) waitFor(request string) {
	f.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		log := f.requests()
		if slices.Contains(log, request) {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("no request %q among %q", request, log)
		}
	}
}

// set changes a node as if somebody else had done it.
func (f *fake) set(path, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.change(path, value)
}

// change sets a node and fires watches. mu is held.
func (f *fake) change(path, value string) {
	f.nodes[path] = value
	f.fire(path)
}

func (f *fake) fire(changed string) {
	for _, w := range f.watches {
		if changed == w[0] || strings.HasPrefix(changed, w[0]+"/") {
			f.event(changed, w[1])
		}
	}
}

func (f *fake) handle(m wire.Message) {
	args, _ := wire.SplitNUL(m.Payload)
	arg := ""
	if len(args) > 0 {
		arg = args[0]
	}
	value, exists := f.nodes[arg]
	switch m.Type {
	case wire.Read:
		if !exists {
			f.refuse(m, "ENOENT")
			return
		}
		f.reply(m, value)
	case wire.Write:
		name, value, _ := strings.Cut(string(m.Payload), "\x00")
		f.reply(m, "OK\x00")
		f.change(name, value)
	case wire.Mkdir:
		f.reply(m, "OK\x00")
		if !exists {
			f.change(arg, "")
		}
	case wire.Rm:
		if _, ok := f.nodes[path.Dir(arg)]; !ok && !exists {
			f.refuse(m, "ENOENT")
			return
		}
		f.reply(m, "OK\x00")
		delete(f.nodes, arg)
		f.fire(arg)
	case wire.Directory:
		if !exists {
			f.refuse(m, "ENOENT")
			return
		}
		f.reply(m, f.children(arg))
	default:
		f.handleRest(m, args)
	}
}

func (f *fake) children(dir string) string {
	var names []string
	for name := range f.nodes {
		if name != dir && path.Dir(name) == dir {
			names = append(names, path.Base(name))
		}
	}
	slices.Sort(names)
	return string(wire.JoinNUL(names...))
}

func (f *fake) handleRest(m wire.Message, args []string) {
	switch m.Type {
	case wire.Watch:
		f.reply(m, "OK\x00")
		f.watches = append(f.watches, [2]string(args))
		f.event(args[0], args[1])
	case wire.Unwatch:
		i := slices.Index(f.watches, [2]string(args))
		if i < 0 {
			f.refuse(m, "ENOENT")
			return
		}
		f.watches = slices.Delete(f.watches, i, i+1)
		f.reply(m, "OK\x00")
	case wire.TransactionStart:
		f.lastTx++
		f.tx[f.lastTx] = true
		f.reply(m, strconv.Itoa(int(f.lastTx))+"\x00")
	case wire.TransactionEnd:
		known := f.tx[m.TxID]
		delete(f.tx, m.TxID)
		switch {
		case !known:
			f.refuse(m, "ENOENT")
		case args[0] == "T" && f.conflicts > 0:
			f.conflicts--
			f.refuse(m, "EAGAIN")
		default:
			f.reply(m, "OK\x00")
		}
	case wire.GetPerms:
		f.reply(m, "n0\x00r5\x00")
	case wire.SetPerms, wire.Introduce, wire.Release, wire.ResetWatches:
		f.reply(m, "OK\x00")
	case wire.GetDomainPath:
		f.reply(m, "/local/domain/"+args[0]+"\x00")
	case wire.IsDomainIntroduced:
		f.reply(m, map[bool]string{true: "T\x00", false: "F\x00"}[args[0] == "0"])
	case wire.Control:
		f.reply(m, strings.Join(args, ",")+"\x00")
	default:
		f.refuse(m, wire.ErrnoName(syscall.ENOSYS))
	}
}

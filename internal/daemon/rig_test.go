package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/agent/firewall"
	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xenstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is an embedded host with one guest. The test plays what is in the guest.
type rig struct {
	t     *testing.T
	dir   string
	host  *xensim.Host
	store *xenstore.Store
	tools *toolstack.Toolstack
	dom   toolstack.Domain

	domU  *xensim.Conn
	guest *xenstore.Store

	log   *slog.Logger      // of the daemon; nil: it is shown when a test fails
	pulse func()            // of the daemon; may be nil
	rules *firewall.Current // of the daemon; may be nil
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	var err error
	r.host, err = xensim.Start(r.dir, xensim.Config{})
	r.check(err)
	t.Cleanup(func() { r.host.Close() })
	_, r.store = r.connect(0)
	r.tools = &toolstack.Toolstack{Store: r.store, RunDir: r.runDir()}
	r.dom = r.domain("guest")
	r.domU, r.guest = r.connect(r.dom.ID)
	return r
}

func (r *rig) runDir() string { return filepath.Join(r.dir, "run") }

func (r *rig) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) domain(name string) toolstack.Domain {
	r.t.Helper()
	d, err := r.host.CreateDomain(xensim.DomainConfig{Name: name, OnCrash: xensim.CrashPreserve})
	r.check(err)
	return toolstack.Domain{ID: d.ID, Name: d.Name, UUID: d.UUID}
}

func (r *rig) connect(dom xen.DomID) (*xensim.Conn, *xenstore.Store) {
	r.t.Helper()
	c, err := xensim.Connect(context.Background(), r.dir, dom)
	r.check(err)
	r.t.Cleanup(func() { c.Close() })
	stream, err := c.OpenStore(context.Background())
	r.check(err)
	s := xenstore.New(stream)
	r.t.Cleanup(func() { s.Close() })
	return c, s
}

// server is a running daemon.
type server struct {
	store *xenstore.Store
	hv    *xensim.Conn
	ended chan struct{}
	err   error
	stop  func() // as a signal does; returns when it has ended
}

// daemon starts a daemon and waits until it is ready.
func (r *rig) daemon() *server {
	r.t.Helper()
	s, ready := r.launch()
	select {
	case <-ready:
	case <-s.ended:
		r.t.Fatalf("the daemon has ended: %v", s.err)
	case <-time.After(10 * time.Second):
		r.t.Fatal("the daemon is never ready")
	}
	return s
}

func (r *rig) launch() (*server, <-chan struct{}) {
	r.t.Helper()
	s := &server{ended: make(chan struct{})}
	s.hv, s.store = r.connect(0)
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	log := r.log
	if log == nil {
		var kept syncBuffer
		log = slog.New(slog.NewTextHandler(&kept, &slog.HandlerOptions{Level: slog.LevelDebug}))
		t := r.t
		t.Cleanup(func() {
			if text := kept.String(); t.Failed() {
				t.Logf("the end of the daemon's log:\n%s", text[max(0, len(text)-1<<20):])
			}
		})
	}
	config := daemon.Config{
		Store: s.store, Hypervisor: s.hv, RunDir: r.runDir(), Ready: func() { close(ready) }, Log: log,
		Firewall: r.rules,
	}
	if r.pulse != nil {
		config.Pulse, config.PulseEvery = r.pulse, 20*time.Millisecond
	}
	go func() {
		defer close(s.ended)
		s.err = daemon.Run(ctx, config)
	}()
	s.stop = func() {
		cancel()
		<-s.ended
		s.store.Close()
		s.hv.Close()
	}
	r.t.Cleanup(s.stop)
	return s, ready
}

func (r *rig) attach(spec channel.Spec) toolstack.Channel {
	r.t.Helper()
	if spec.Connection == "" {
		spec.Connection = channel.Socket
	}
	c, err := r.tools.Attach(context.Background(), r.dom, spec)
	r.check(err)
	return c
}

// guestEnd runs the guest's half of a channel.
type guestEnd struct {
	conns chan *console.Conn
	stop  func()
	ended chan struct{}
}

func (r *rig) frontend(c toolstack.Channel) *guestEnd {
	g := r.newFrontend(c)
	r.t.Cleanup(g.stop)
	return g
}

// newFrontend is a frontend that its user stops.
func (r *rig) newFrontend(c toolstack.Channel) *guestEnd {
	g := &guestEnd{conns: make(chan *console.Conn, 10), ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	f := console.Frontend{
		Store: r.guest, Hypervisor: r.domU, Path: c.Frontend,
		Attached: func(c *console.Conn) { g.conns <- c },
		Detached: func(c *console.Conn) { c.HangUp() },
	}
	go func() { defer close(g.ended); f.Run(ctx) }()
	g.stop = func() { cancel(); <-g.ended }
	return g
}

// boot runs the guest's half, waits until it is connected, and is its end.
func (r *rig) boot(c toolstack.Channel) *console.Conn {
	r.t.Helper()
	g := r.frontend(c)
	r.connected(c)
	return <-g.conns
}

func (r *rig) connected(c toolstack.Channel) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r.check(r.tools.WaitConnected(ctx, c))
}

// dial connects as a program on the host, once the socket is there.
func (r *rig) dial(path string) *net.UnixConn {
	r.t.Helper()
	var c net.Conn
	r.eventually("a client can connect", func() bool {
		var err error
		c, err = net.Dial("unix", path)
		return err == nil
	})
	c.SetDeadline(time.Now().Add(20 * time.Second))
	r.t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

// eventually waits for what has no event of its own.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("never happened: %s", what)
		}
	}
}

func (r *rig) status() []daemon.Status {
	r.t.Helper()
	rows, err := daemon.Query(context.Background(), r.runDir())
	r.check(err)
	return rows
}

// row is the status of one channel.
func (r *rig) row(c toolstack.Channel) daemon.Status {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, s := range r.status() {
			if s.DomID == c.DomID && s.DevID == c.DevID {
				return s
			}
		}
	}
	r.t.Fatalf("no status of %s", c.Name)
	return daemon.Status{}
}

func (r *rig) info(dom xen.DomID) (xensim.DomainInfo, bool) {
	for _, d := range r.host.Domains() {
		if d.ID == dom {
			return d, true
		}
	}
	return xensim.DomainInfo{}, false
}

// remove removes a channel's nodes as `xl destroy` does, without asking.
func (r *rig) remove(c toolstack.Channel) {
	r.t.Helper()
	ctx := context.Background()
	r.check(r.store.Tx(ctx, func(tx *xenstore.Tx) error {
		libxl := fmt.Sprintf("/libxl/%d/device/console/%d", c.DomID, c.DevID)
		return errors.Join(tx.Remove(ctx, c.Frontend), tx.Remove(ctx, c.Backend), tx.Remove(ctx, libxl))
	}))
}

// dump is every node and its value, sorted.
func (r *rig) dump() []string {
	r.t.Helper()
	var all []string
	var walk func(path string)
	walk = func(path string) {
		value, err := r.store.Read(context.Background(), path)
		r.check(err)
		all = append(all, path+" = "+value)
		names, err := r.store.List(context.Background(), path)
		r.check(err)
		for _, n := range names {
			walk(filepath.Join(path, n))
		}
	}
	walk("/")
	slices.Sort(all)
	return all
}

func (r *rig) write(w io.Writer, p []byte) {
	r.t.Helper()
	if n, err := w.Write(p); n != len(p) || err != nil {
		r.t.Fatalf("wrote %d of %d bytes: %v", n, len(p), err)
	}
}

func (r *rig) expect(x io.Reader, want []byte) {
	r.t.Helper()
	if d, ok := x.(interface{ SetReadDeadline(time.Time) error }); ok {
		d.SetReadDeadline(time.Now().Add(20 * time.Second))
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(x, got); err != nil || !bytes.Equal(got, want) {
		r.t.Fatalf("read %d bytes %.60q, %v; want %d bytes %.60q", n, got[:n], err, len(want), want)
	}
}

// pattern has no period that could hide a loss.
func pattern(n int) []byte {
	p := make([]byte, 0, n+8)
	for i := uint32(1); len(p) < n; i++ {
		p = append(p, byte(i), byte(i>>8), byte(i>>16), byte(i*2654435761>>24))
	}
	return p[:n]
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

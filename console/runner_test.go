package console_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xenstore"
)

// rig is an embedded host with one guest, whose devices the test runs.
type rig struct {
	t            testing.TB
	host         *xensim.Host
	dom0, domU   *xensim.Conn
	store, guest *xenstore.Store
	tools        *toolstack.Toolstack
	dom          toolstack.Domain
	mapped       atomic.Int64                                     // how often pages were mapped, or tried to be
	fault        atomic.Pointer[func(xensim.Op, xen.DomID) error] // of a hypercall; may be nil
}

func newRig(t testing.TB) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t}
	var err error
	r.host, err = xensim.Start(dir, xensim.Config{Fault: func(op xensim.Op, dom xen.DomID) error {
		if op == xensim.OpMap {
			r.mapped.Add(1)
		}
		if f := r.fault.Load(); f != nil {
			return (*f)(op, dom)
		}
		return nil
	}})
	r.check(err)
	t.Cleanup(func() { r.host.Close() })
	dom, err := r.host.CreateDomain(xensim.DomainConfig{Name: "guest", OnCrash: xensim.CrashPreserve})
	r.check(err)
	r.dom = toolstack.Domain{ID: dom.ID, Name: dom.Name, UUID: dom.UUID}
	r.dom0, r.store = r.connect(dir, 0)
	r.domU, r.guest = r.connect(dir, dom.ID)
	r.tools = &toolstack.Toolstack{Store: r.store, RunDir: dir}
	return r
}

func (r *rig) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) connect(dir string, dom xen.DomID) (*xensim.Conn, *xenstore.Store) {
	r.t.Helper()
	c, err := xensim.Connect(context.Background(), dir, dom)
	r.check(err)
	r.t.Cleanup(func() { c.Close() })
	stream, err := c.OpenStore(context.Background())
	r.check(err)
	s := xenstore.New(stream)
	r.t.Cleanup(func() { s.Close() })
	return c, s
}

func (r *rig) attach(name string) toolstack.Channel {
	r.t.Helper()
	c, err := r.tools.Attach(context.Background(), r.dom, channel.Spec{Name: name, Connection: channel.PTY})
	r.check(err)
	return c
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

func (r *rig) set(s *xenstore.Store, path, value string) {
	r.t.Helper()
	r.check(s.Write(context.Background(), path, value))
}

// await waits until a node has a value; "" is also an absent node.
func (r *rig) await(path, want string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var got string
	err := r.store.WaitUntil(ctx, func(x xenstore.Reader) (bool, error) {
		v := xenstore.NewValues(ctx, x)
		got = v.Get(path)
		return got == want, v.Err()
	})
	if err != nil {
		r.t.Fatalf("%s is %q, not %q: %v", path, got, want, err)
	}
}

func (r *rig) connected(c toolstack.Channel) {
	r.t.Helper()
	r.await(c.Backend+"/state", "4")
	r.await(c.Frontend+"/state", "4")
}

// info is what the hypervisor knows of a domain.
func (r *rig) info(dom xen.DomID) (xensim.DomainInfo, bool) {
	for _, d := range r.host.Domains() {
		if d.ID == dom {
			return d, true
		}
	}
	return xensim.DomainInfo{}, false
}

// running is a Backend or a Frontend at work.
type running struct {
	stop  context.CancelFunc
	ended chan struct{}
	err   error // after ended
	conns chan *console.Conn
	back  *console.Backend
}

func (x *running) poke() { x.back.Look() }

// wait waits for the end of its own accord.
func (x *running) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-x.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	return x.err
}

func (x *running) kill(t testing.TB) {
	t.Helper()
	x.stop()
	if err := x.wait(t); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func (r *rig) run(x *running, f func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	x.stop, x.ended = stop, make(chan struct{})
	go func() {
		defer close(x.ended)
		x.err = f(ctx)
	}()
	r.t.Cleanup(func() { x.stop(); <-x.ended })
}

// backend runs a channel's backend, and looks at the nodes whenever its own change.
func (r *rig) backend(c toolstack.Channel, sink console.Sink) *running {
	return r.backendWith(c, console.Backend{Sink: sink})
}

func (r *rig) backendWith(c toolstack.Channel, b console.Backend) *running {
	r.t.Helper()
	x := &running{conns: make(chan *console.Conn, 100)}
	b.Store, b.Hypervisor = r.store, r.dom0
	b.Path, b.Frontend, b.DomID = c.Backend, c.Frontend, r.dom.ID
	if b.Attached == nil {
		b.Attached = func(c *console.Conn) { x.conns <- c }
	}
	if b.Sink == nil {
		b.Sink = newMemory(-1)
	}
	x.back = console.NewBackend(b)
	watch, err := r.store.Watch(context.Background(), c.Backend)
	r.check(err)
	dom, err := r.store.Watch(context.Background(), "@releaseDomain")
	r.check(err)
	r.run(x, func(ctx context.Context) error {
		var wg sync.WaitGroup
		for _, w := range []*xenstore.Watch{watch, dom} {
			wg.Go(func() {
				for {
					if _, err := w.Next(context.Background()); err != nil {
						return
					}
					x.poke()
				}
			})
		}
		err := x.back.Run(ctx)
		watch.Close()
		dom.Close()
		wg.Wait()
		return err
	})
	return x
}

// frontend runs the guest's half.
func (r *rig) frontend(c toolstack.Channel) *running {
	x := &running{conns: make(chan *console.Conn, 100)}
	f := console.Frontend{
		Store: r.guest, Hypervisor: r.domU, Path: c.Frontend,
		Attached: func(c *console.Conn) { x.conns <- c },
		Detached: func(c *console.Conn) { c.HangUp() },
	}
	r.run(x, f.Run)
	return x
}

func (x *running) conn(t testing.TB) *console.Conn {
	t.Helper()
	select {
	case c := <-x.conns:
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("it never attached")
		return nil
	}
}

// history collects every value of a node, until the test ends.
func (r *rig) history(path string) func() []string {
	watch, err := r.store.Watch(context.Background(), path)
	r.check(err)
	var mu sync.Mutex
	var seen []string
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := watch.Next(context.Background()); err != nil {
				return
			}
			v, _ := r.store.Read(context.Background(), path)
			mu.Lock()
			seen = append(seen, v)
			mu.Unlock()
		}
	})
	r.t.Cleanup(func() { watch.Close(); wg.Wait() })
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), seen...)
	}
}

func TestRunners_connectAndExchange(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	sink := newMemory(-1)
	back, front := r.backend(c, sink), r.frontend(c)
	r.connected(c)
	b, f := back.conn(t), front.conn(t)
	want := pattern(100_000)
	go f.Write(want)
	go b.Write(want)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(f, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("to the guest: %v", err)
	}
	eventually(t, "all in the sink", func() bool { return len(sink.bytes()) == len(want) })
	if !bytes.Equal(sink.bytes(), want) {
		t.Error("from the guest came other bytes")
	}
}

// The guest offers its ring before there is a backend, and writes into it.
func TestRunners_backendComesLate(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	front := r.frontend(c)
	r.await(c.Frontend+"/state", "3")
	write(t, front.conn(t), []byte("early"))
	sink := newMemory(-1)
	r.backend(c, sink)
	r.connected(c)
	eventually(t, "the early bytes", func() bool { return string(sink.bytes()) == "early" })
}

func TestRunners_guestRestarts(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	sink := newMemory(-1)
	back, front := r.backend(c, sink), r.frontend(c)
	r.connected(c)
	var want string
	for i := range 10 {
		f, b := front.conn(t), back.conn(t)
		msg := fmt.Sprintf("round %d;", i)
		want += msg
		write(t, f, []byte(msg))
		write(t, b, []byte(msg))
		expect(t, f, []byte(msg))
		switch i % 2 {
		case 0: // resumed, or another kernel started: without a word of goodbye
			r.set(r.guest, c.Frontend+"/state", "1")
		case 1: // the driver was unbound and bound again
			front.kill(t)
			r.set(r.guest, c.Frontend+"/state", "6")
			r.await(c.Backend+"/state", "6")
			if d, _ := r.info(0); d.Mapped != 0 {
				t.Errorf("the closed guest's page is still mapped: %+v", d)
			}
			r.set(r.guest, c.Frontend+"/state", "1")
			r.await(c.Backend+"/state", "2") // a backend that is still at 6 makes Linux close again
			front = r.frontend(c)
		}
		r.connected(c)
	}
	eventually(t, "all rounds", func() bool { return string(sink.bytes()) == want })
	if d, _ := r.info(0); d.Mapped != 1 || d.Ports != 1 {
		t.Errorf("the host holds more than one ring: %+v", d)
	}
}

// Section 4.5 of the facts: the guest does not notice, and no byte is lost.
func TestRunners_backendRestarts(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	sink := newMemory(-1)
	back, front := r.backend(c, sink), r.frontend(c)
	r.connected(c)
	f := front.conn(t)
	backStates, frontStates := r.history(c.Backend+"/state"), r.history(c.Frontend+"/state")
	ref, _ := r.store.Read(t.Context(), c.Frontend+"/ring-ref")

	want := pattern(400_000)
	written := make(chan error, 1)
	go func() { _, err := f.Write(want); written <- err }()
	var sent []byte // towards the guest
	got := make(chan []byte, 1)
	go func() { p, _ := io.ReadAll(f); got <- p }()
	for i := range 20 {
		time.Sleep(time.Duration(i%4) * time.Millisecond)
		b := back.conn(t)
		p := pattern(1 + i*100)
		n, err := b.TryWrite(p)
		r.check(err)
		sent = append(sent, p[:n]...)
		back.kill(t)
		back = r.backend(c, sink)
	}
	r.check(<-written)
	eventually(t, "all bytes", func() bool { return len(sink.bytes()) >= len(want) })
	if !bytes.Equal(sink.bytes(), want) {
		t.Error("bytes from the guest were lost, repeated or changed")
	}
	for _, s := range append(backStates(), frontStates()...) {
		if s != "4" {
			t.Errorf("a state went through %q", s)
		}
	}
	if now, _ := r.store.Read(t.Context(), c.Frontend+"/ring-ref"); now != ref {
		t.Error("the guest has another ring")
	}
	eventually(t, "the guest has read", func() bool { return f.Stats().Received == int64(len(sent)) })
	front.stop()
	if p := <-got; !bytes.Equal(p, sent) {
		t.Errorf("the guest got %d other bytes than the %d sent", len(p), len(sent))
	}
}

func TestRunners_unplug(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	sink := newMemory(-1)
	back, front := r.backend(c, sink), r.frontend(c)
	r.connected(c)
	f := front.conn(t)
	write(t, f, []byte("last words"))
	r.check(r.store.Tx(t.Context(), func(tx *xenstore.Tx) error {
		return errors.Join(tx.Write(t.Context(), c.Backend+"/online", "0"), tx.Write(t.Context(), c.Backend+"/state", "5"))
	}))
	r.await(c.Frontend+"/state", "6")
	r.await(c.Backend+"/state", "6")
	r.remove(c)
	if err := back.wait(t); err != nil {
		t.Errorf("the backend: %v", err)
	}
	if err := front.wait(t); err != nil {
		t.Errorf("the frontend: %v", err)
	}
	if string(sink.bytes()) != "last words" {
		t.Errorf("the sink has %q", sink.bytes())
	}
	for _, d := range r.host.Domains() {
		if d.Ports+d.Grants+d.Mapped > 0 {
			t.Errorf("left behind: %+v", d)
		}
	}
}

func TestRunners_guestDeletesItsNodes(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	back, front := r.backend(c, nil), r.frontend(c)
	r.connected(c)
	r.check(r.guest.Remove(t.Context(), c.Frontend))
	r.await(c.Backend+"/state", "6")
	r.check(front.wait(t))
	eventually(t, "the page is let go", func() bool {
		d, _ := r.info(0)
		return d.Mapped == 0 && d.Ports == 0
	})
	select {
	case <-back.ended:
		t.Errorf("the backend must stay while its own nodes do: %v", back.err)
	default:
	}
	r.remove(c)
	r.check(back.wait(t))
}

// The domain dies under an attached ring: it must not stay as a zombie.
func TestRunners_domainDestroyed(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	sink := newMemory(-1)
	back, front := r.backend(c, sink), r.frontend(c)
	r.connected(c)
	write(t, front.conn(t), []byte("panic"))
	r.check(r.host.DestroyDomain(r.dom.ID))
	r.check(back.wait(t))
	eventually(t, "no zombie", func() bool { _, there := r.info(r.dom.ID); return !there })
	if string(sink.bytes()) != "panic" {
		t.Errorf("the guest's last words are %q", sink.bytes())
	}
	front.stop()
}

func TestFrontend_withoutBackendNode(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	r.set(r.guest, c.Frontend+"/backend", "")
	front := r.frontend(c)
	if err := front.wait(t); err == nil || !strings.Contains(err.Error(), "no backend named") {
		t.Errorf("%v", err)
	}
}

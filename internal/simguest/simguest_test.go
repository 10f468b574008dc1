package simguest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/endpoint/pty"
	"github.com/xenchan/xenchan/internal/simguest"
	"github.com/xenchan/xenchan/spool"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xenstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is an embedded host with one guest. The test plays the daemon.
type rig struct {
	t     *testing.T
	dir   string // of the guest's terminals
	host  *xensim.Host
	dom0  *xensim.Conn
	store *xenstore.Store
	tools *toolstack.Toolstack
	dom   toolstack.Domain

	guest *xenstore.Store
	ended chan struct{}
	err   error // of the guest
	stop  context.CancelFunc
}

func newRig(t *testing.T) *rig {
	t.Helper()
	base := t.TempDir()
	r := &rig{t: t, dir: filepath.Join(base, "guest", "tty"), ended: make(chan struct{})}
	var err error
	r.host, err = xensim.Start(base, xensim.Config{})
	r.check(err)
	t.Cleanup(func() { r.host.Close() })
	d, err := r.host.CreateDomain(xensim.DomainConfig{Name: "guest", OnCrash: xensim.CrashPreserve})
	r.check(err)
	r.dom = toolstack.Domain{ID: d.ID, Name: d.Name, UUID: d.UUID}
	r.dom0, r.store = r.connect(base, 0)
	domU, guest := r.connect(base, d.ID)
	r.guest = guest
	r.tools = &toolstack.Toolstack{Store: r.store, RunDir: filepath.Join(base, "run")}

	r.check(os.MkdirAll(r.dir, 0o755))
	r.check(os.WriteFile(filepath.Join(r.dir, "stale"), nil, 0o644))
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() {
		defer close(r.ended)
		r.err = simguest.Run(ctx, simguest.Config{Store: guest, Hypervisor: domU, Dir: r.dir})
	}()
	t.Cleanup(func() { cancel(); <-r.ended })
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

// backend is the host's half of a channel. What the guest says waits in the
// spool; when that is full, it stays in the ring.
type backend struct {
	*console.Conn
	spool *spool.Log
	look  func()
	stop  func()
}

func (r *rig) serve(c toolstack.Channel) backend {
	r.t.Helper()
	log, err := spool.New(4096, spool.Block)
	r.check(err)
	conns := make(chan *console.Conn, 10)
	b := console.NewBackend(console.Backend{
		Store: r.store, Hypervisor: r.dom0, Path: c.Backend, Frontend: c.Frontend, DomID: r.dom.ID,
		Sink: log, Attached: func(c *console.Conn) { conns <- c },
	})
	watch, err := r.store.Watch(context.Background(), c.Backend)
	r.check(err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := watch.Next(ctx); err != nil {
				return
			}
			b.Look()
		}
	})
	wg.Go(func() { b.Run(ctx) })
	stop := func() { cancel(); watch.Close(); wg.Wait() }
	r.t.Cleanup(stop)
	soon, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	r.check(r.tools.WaitConnected(soon, c))
	return backend{<-conns, log, b.Look, stop}
}

// said reads n bytes of what the guest has said.
func (r *rig) said(b backend, n int) string {
	r.t.Helper()
	var got []byte
	r.eventually(fmt.Sprintf("%d bytes from the guest", n), func() bool {
		p := b.spool.Peek()
		p = p[:min(len(p), n-len(got))]
		got = append(got, p...)
		b.spool.Advance(len(p), 0)
		return len(got) == n
	})
	return string(got)
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("never happened: %s", what)
		}
	}
}

func (r *rig) exists(name string) bool {
	_, err := os.Lstat(filepath.Join(r.dir, name))
	return err == nil
}

// open opens a terminal in the guest, once it is there.
func (r *rig) open(name string) *os.File {
	r.t.Helper()
	r.eventually("terminal "+name, func() bool { return r.exists(name) })
	f, err := os.OpenFile(filepath.Join(r.dir, name), os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	r.check(err)
	r.t.Cleanup(func() { f.Close() })
	f.SetDeadline(time.Now().Add(20 * time.Second))
	return f
}

func (r *rig) openRaw(name string) *os.File {
	r.t.Helper()
	f := r.open(name)
	r.check(pty.MakeRaw(f))
	return f
}

func (r *rig) write(w io.Writer, s string) {
	r.t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) expect(x io.Reader, want string) {
	r.t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(x, got); err != nil || string(got) != want {
		r.t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

func TestTerminal_bothWays(t *testing.T) {
	r := newRig(t)
	b := r.serve(r.attach("a"))
	tty := r.openRaw("a")
	if r.exists("stale") {
		t.Error("the directory was not emptied")
	}
	for i := range 3 {
		msg := fmt.Sprintf("round %d\x00\r\n\x03", i)
		r.write(tty, msg)
		if got := r.said(b, len(msg)); got != msg {
			t.Errorf("the guest said %q", got)
		}
		r.write(b, msg)
		r.expect(tty, msg)
	}
}

// The host sees who has a terminal, and not on nodes that are no more.
func TestTerminal_tellsTheHost(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	r.serve(c)
	says := func(want channel.GuestState) {
		t.Helper()
		r.eventually(fmt.Sprintf("the guest says %q", want), func() bool {
			got, err := r.store.Read(t.Context(), c.Frontend+"/"+channel.GuestNode)
			return err == nil && got == string(want)
		})
	}
	says(channel.GuestClosed)
	tty := r.open("a")
	says(channel.GuestOpen)
	tty.Close()
	says(channel.GuestClosed)
	r.open("a")
	says(channel.GuestOpen)
	r.check(r.tools.Detach(t.Context(), r.dom, c.Name))
	if nodes, err := r.store.List(t.Context(), c.Frontend); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a detached frontend has %q, %v", nodes, err)
	}
}

// As on Linux, a terminal that is freshly opened echoes and has lines.
func TestTerminal_isFreshOnEachOpen(t *testing.T) {
	r := newRig(t)
	b := r.serve(r.attach("a"))
	for range 3 {
		tty := r.open("a")
		r.write(b, "hi\r")
		r.expect(tty, "hi\n")
		if got := r.said(b, 4); got != "hi\r\n" {
			t.Errorf("the echo is %q", got)
		}
		r.check(pty.MakeRaw(tty))
		r.write(b, "raw\r")
		r.expect(tty, "raw\r")
		tty.Close()
		time.Sleep(50 * time.Millisecond) // the last close is noticed a moment later
	}
}

// While nobody has the terminal open, the host's bytes stay in the ring.
func TestTerminal_closed(t *testing.T) {
	r := newRig(t)
	b := r.serve(r.attach("a"))
	r.eventually("the terminal", func() bool { return r.exists("a") })
	n, err := b.TryWrite(make([]byte, 2000))
	if n != 1024 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	time.Sleep(20 * time.Millisecond)
	if n, err := b.TryWrite([]byte("x")); n != 0 || err != nil || b.Stats().PeerReads {
		t.Fatalf("somebody reads: %d, %v", n, err)
	}
	tty := r.openRaw("a")
	r.expect(tty, string(make([]byte, 1024)))
	r.eventually("it shows that somebody reads", func() bool { return b.Stats().PeerReads })
	tty.Close()
	r.eventually("again nobody reads", func() bool {
		b.TryWrite([]byte("y"))
		time.Sleep(5 * time.Millisecond)
		return !b.Stats().PeerReads
	})
}

// A guest that writes into a full ring spins, and nothing else in it moves.
func TestTerminal_fullRingStopsTheGuest(t *testing.T) {
	r := newRig(t)
	a, b := r.serve(r.attach("a")), r.serve(r.attach("b"))
	ttyA, ttyB := r.openRaw("a"), r.openRaw("b")
	wrote := make(chan error, 1)
	big := string(make([]byte, 20_000)) // more than spool and ring
	go func() { _, err := io.WriteString(ttyA, big); wrote <- err }()
	r.eventually("the spool is full", func() bool { return a.spool.Positions().Spooled == 4096 })
	time.Sleep(20 * time.Millisecond)
	r.write(ttyB, "help")
	time.Sleep(50 * time.Millisecond)
	if n := b.spool.Positions().End; n != 0 {
		t.Errorf("the other channel moved %d bytes while the processor spun", n)
	}
	r.said(a, len(big))
	r.check(<-wrote)
	if got := r.said(b, 4); got != "help" {
		t.Error(got)
	}
}

func TestTerminal_unplugged(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	r.serve(c)
	other := r.serve(r.attach("b"))
	tty := r.openRaw("a")
	r.check(r.tools.Detach(t.Context(), r.dom, "a"))
	if n, err := tty.Read(make([]byte, 1)); n > 0 || !errors.Is(err, syscall.EIO) && err != io.EOF {
		t.Errorf("a program that has it open reads %d, %v", n, err)
	}
	r.eventually("the terminal goes", func() bool { return !r.exists("a") })
	r.write(r.openRaw("b"), "still here")
	if got := r.said(other, 10); got != "still here" {
		t.Error(got)
	}
}

// The driver is bound again, or the guest was resumed: the terminal hangs up and
// is there again, with another ring.
func TestTerminal_guestOffersAnotherRing(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	b := r.serve(c)
	tty := r.openRaw("a")
	r.write(tty, "before")
	r.said(b, 6)
	r.check(r.guest.Write(t.Context(), "device/console/1/state", "1"))
	if n, err := tty.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the old terminal reads %d, %v", n, err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r.check(r.tools.WaitConnected(soon, c))
	r.write(r.openRaw("a"), "after")
	if got := r.said(b, 5); got != "after" {
		t.Error(got)
	}
}

// Another channel takes a detached one's place before the guest could look.
func TestTerminal_anotherChannelInItsPlace(t *testing.T) {
	r := newRig(t)
	c := r.attach("a")
	ctx := t.Context()
	r.eventually("the ring is offered", func() bool {
		s, _ := r.store.Read(ctx, c.Frontend+"/state")
		return s == "3" && r.exists("a")
	})
	r.check(r.store.Tx(ctx, func(tx *xenstore.Tx) error {
		return errors.Join(
			tx.Write(ctx, c.Frontend+"/name", "b"), tx.Write(ctx, c.Frontend+"/state", "1"),
			tx.Remove(ctx, c.Frontend+"/ring-ref"), tx.Remove(ctx, c.Frontend+"/port"))
	}))
	r.eventually("the terminal has the other name", func() bool { return r.exists("b") && !r.exists("a") })
}

// manual writes a device's nodes at a devid that the toolstack would not give.
func (r *rig) manual(devid, name string) string {
	r.t.Helper()
	ctx := r.t.Context()
	dir := fmt.Sprintf("/local/domain/%v/device/console/%s", r.dom.ID, devid)
	r.check(r.store.Tx(ctx, func(tx *xenstore.Tx) error {
		for k, v := range map[string]string{
			"backend": "/local/domain/0/backend/console/x/" + devid, "backend-id": "0", "name": name, "state": "1",
		} {
			if err := tx.Write(ctx, dir+"/"+k, v); err != nil {
				return err
			}
		}
		for _, k := range []string{"", "/state"} {
			p, err := tx.Perms(ctx, dir+k)
			if err != nil {
				return err
			}
			p[0].DomID = uint16(r.dom.ID)
			if err := tx.SetPerms(ctx, dir+k, p); err != nil {
				return err
			}
		}
		return nil
	}))
	return dir
}

// hvc_xen tells consoles apart by the last digit alone, and 0 is not for it.
func TestGuest_lastDigit(t *testing.T) {
	r := newRig(t)
	one := r.manual("1", "one")
	r.eventually("one", func() bool { return r.exists("one") })
	r.manual("11", "eleven")
	r.manual("10", "ten")
	r.manual("2", "two")
	r.eventually("two", func() bool { return r.exists("two") })
	if r.exists("eleven") || r.exists("ten") {
		t.Error("a console that Linux could not serve has a terminal")
	}
	r.check(r.store.Remove(t.Context(), one))
	r.eventually("its digit is free again", func() bool { return r.exists("eleven") && !r.exists("one") })
}

func TestGuest_sevenTerminals(t *testing.T) {
	r := newRig(t)
	for i := 1; i <= 7; i++ {
		r.manual(fmt.Sprint(i), fmt.Sprintf("c%d", i))
	}
	for i := 1; i <= 7; i++ {
		r.open(fmt.Sprintf("c%d", i))
	}
	dir := r.manual("8", "c8")
	r.eventually("the device is probed", func() bool {
		s, _ := r.store.Read(t.Context(), dir+"/state")
		return s == "3"
	})
	if r.exists("c8") {
		t.Error("an eighth terminal")
	}
	r.check(r.store.Remove(t.Context(), fmt.Sprintf("/local/domain/%v/device/console/1", r.dom.ID)))
	r.eventually("one goes", func() bool { return !r.exists("c1") })
	r.manual("1", "again")
	r.open("again")
}

func TestGuest_nameThatIsNoFileName(t *testing.T) {
	r := newRig(t)
	r.manual("3", "../../evil")
	r.open("console-3")
	if _, err := os.Lstat(filepath.Join(r.dir, "../../evil")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a terminal outside of the directory")
	}
}

func TestRun_stops(t *testing.T) {
	r := newRig(t)
	r.serve(r.attach("a"))
	r.open("a")
	r.stop()
	<-r.ended
	if r.err != nil {
		t.Error(r.err)
	}
	if r.exists("a") {
		t.Error("a terminal is left")
	}
}

func TestRun_storeLost(t *testing.T) {
	r := newRig(t)
	r.serve(r.attach("a"))
	r.guest.Close()
	select {
	case <-r.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	if r.err == nil {
		t.Error("no error")
	}
}

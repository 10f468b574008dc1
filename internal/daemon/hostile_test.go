package daemon_test

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
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
	"github.com/xenchan/xenchan/xenstore/wire"
)

// mallory is a guest that breaks the protocol, and one channel of it.
type mallory struct {
	r          *rig
	dom0       *xensim.Conn
	foreignRef string // granted to us, by another guest
	c          toolstack.Channel

	pages xen.SharedPages // the latest
	event xen.EventChannel
	used  []io.Closer
}

func (m *mallory) share() {
	m.pages, m.event = m.sharePages(0), m.alloc(0)
}

func (m *mallory) sharePages(to xen.DomID) xen.SharedPages {
	p, err := m.r.domU.SharePages(to, 1)
	m.r.check(err)
	m.used = append(m.used, p)
	return p
}

func (m *mallory) alloc(remote xen.DomID) xen.EventChannel {
	e, err := m.r.domU.AllocUnbound(remote)
	m.r.check(err)
	m.used = append(m.used, e)
	return e
}

func (m *mallory) publish() { m.offer("3") }

func (m *mallory) offer(state string) {
	m.set("ring-ref", m.pages.Refs()[0].String())
	m.set("port", m.event.Port().String())
	m.set("state", state)
}

// set writes a node of the frontend if that is possible.
func (m *mallory) set(node, value string) {
	_ = m.r.guest.Write(m.r.t.Context(), m.c.Frontend+"/"+node, value)
}

func (m *mallory) remove(node string) {
	path := m.c.Frontend
	if node != "" {
		path += "/" + node
	}
	_ = m.r.guest.Remove(m.r.t.Context(), path)
}

// perms lets nobody but the guest itself read a node.
func (m *mallory) perms(path string) {
	m.r.check(m.r.guest.SetPerms(m.r.t.Context(), path, wire.Perms{{Access: wire.AccessNone, DomID: uint16(m.r.dom.ID)}}))
}

// get and put move an index at once, as every guest does: with the race detector's
// marks in between, the compiler would move it byte by byte.
//
//go:norace
func (m *mallory) get(at int) uint32 { return binary.NativeEndian.Uint32(m.pages.Bytes()[at:]) }

//go:norace
func (m *mallory) put(at int, v uint32) { binary.NativeEndian.PutUint32(m.pages.Bytes()[at:], v) }

func (m *mallory) notify() { _ = m.event.Notify() }

// index writes an index and says so.
func (m *mallory) index(at int, v uint32) {
	m.put(at, v)
	m.notify()
}

// scribble fills the out ring anew.
func (m *mallory) scribble() { _, _ = rand.Read(m.pages.Bytes()[1024:3072]) }

func (m *mallory) storm(f func()) {
	for end := time.Now().Add(stormTime); time.Now().Before(end); {
		f()
	}
}

func (m *mallory) state() string {
	s, _ := m.r.store.Read(m.r.t.Context(), m.c.Backend+"/state")
	return s
}

func (m *mallory) await(state string) {
	m.r.t.Helper()
	m.r.eventually("backend state "+state, func() bool { return m.state() == state })
}

// letGo gives back what the guest has used.
func (m *mallory) letGo() {
	for _, u := range m.used {
		_ = u.Close() // some are closed already
	}
	m.used = nil
}

// behave closes as Linux does and comes again, with a driver that does what it should.
func (m *mallory) behave() {
	m.r.t.Helper()
	m.remove("state") // it may be a directory
	m.set("state", "6")
	m.await("6")
	m.set("state", "1")
	m.await("2")
	front := m.r.frontend(m.c)
	m.r.connected(m.c)
	guest := <-front.conns
	client := m.r.dial(m.c.Path)
	m.r.write(client, []byte("again"))
	// What a client has sent before comes first.
	m.r.awaitSuffix(guest, "again")
	client.Close()
	front.stop()
}

// awaitSuffix reads until what has come ends as it should.
func (r *rig) awaitSuffix(from net.Conn, want string) {
	r.t.Helper()
	from.SetReadDeadline(time.Now().Add(20 * time.Second))
	var tail []byte
	buf := make([]byte, 4096)
	for string(tail) != want {
		n, err := from.Read(buf)
		if err != nil {
			r.t.Fatalf("reads %.60q, %v; want %q", tail, err, want)
		}
		tail = append(tail, buf[:n]...)
		tail = tail[max(0, len(tail)-len(want)):]
	}
}

// innocent is a guest that echoes, and a client that measures how long that takes.
type innocent struct {
	stop func()

	mu    sync.Mutex
	trips []time.Duration
	err   error
}

func (r *rig) innocent() *innocent {
	r.t.Helper()
	c := r.attach(channel.Spec{Name: "innocent"})
	guest, client := r.boot(c), r.dial(c.Path)
	client.SetDeadline(time.Time{})
	in := &innocent{}
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(plain{guest}, plain{guest}) })
	var over atomic.Bool
	wg.Go(func() {
		said, heard := []byte("are you there?"), make([]byte, 14)
		for !over.Load() {
			begin := time.Now()
			client.SetDeadline(begin.Add(20 * time.Second))
			_, err := client.Write(said)
			if err == nil {
				_, err = io.ReadFull(client, heard)
			}
			in.mu.Lock()
			in.trips = append(in.trips, time.Since(begin))
			in.err = errors.Join(in.err, err)
			in.mu.Unlock()
			if err != nil {
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
	in.stop = sync.OnceFunc(func() { over.Store(true); client.SetDeadline(time.Now().Add(time.Second)); guest.Close(); wg.Wait() })
	r.t.Cleanup(in.stop)
	return in
}

// plain has io.Copy use nothing but Read and Write.
type plain struct{ c *console.Conn }

func (c plain) Read(p []byte) (int, error)  { return c.c.Read(p) }
func (c plain) Write(p []byte) (int, error) { return c.c.Write(p) }

// take is how long the round trips since the last call took, sorted.
func (in *innocent) take(t testing.TB) trips {
	t.Helper()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err != nil {
		t.Fatalf("the innocent guest's channel: %v", in.err)
	}
	all := in.trips
	in.trips = nil
	slices.Sort(all)
	return all
}

type trips []time.Duration

func (t trips) String() string {
	if len(t) == 0 {
		return "no echo"
	}
	at := func(share float64) time.Duration { return t[int(share*float64(len(t)-1))].Round(time.Microsecond) }
	return fmt.Sprintf("%d echoes, p50 %v, p99 %v, max %v", len(t), at(.5), at(.99), at(1))
}

// A guest that violates the protocol harms its own channel alone: another guest's
// echo goes on, the daemon's loops go round, nothing stays held, and the channel
// itself can be used once the guest behaves.
func TestHostile(t *testing.T) {
	r := newRig(t)
	var beats atomic.Int64
	r.pulse = func() { beats.Add(1) }
	r.daemon()
	in := r.innocent()
	foreign, err := r.domU.SharePages(0, 60)
	r.check(err)
	defer foreign.Close()
	m := &mallory{r: r, foreignRef: foreign.Refs()[59].String()}
	m.dom0, _ = r.connect(0)
	r.dom = r.domain("mallory")
	r.domU, r.guest = r.connect(r.dom.ID)
	var all trips
	run := func(v violation, before *held) (all trips) {
		t.Run(v.name, func(t *testing.T) {
			was := beats.Load()
			r, m := *r, *m
			r.t, m.r = t, &r
			all = m.violate(v, in)
			if before.Files == 0 {
				*before = r.held()
			}
			r.heldAgain(*before)
			r.eventually("the daemon's loops go round", func() bool { return beats.Load() > was+1 })
		})
		return all
	}
	var before held
	run(violation{name: "none, for comparison", late: func(*mallory) { time.Sleep(5 * stormTime) }, ends: "4"}, &before)
	for _, v := range violations() {
		all = append(all, run(v, &before)...)
	}
	slices.Sort(all)
	t.Logf("beside %d violations: %v", len(violations()), all)
	if n := len(violations()); n < 40 {
		t.Errorf("only %d violations are listed", n)
	}
}

// A guest that dies at any step of the handshake leaves nothing, and no zombie.
func TestHostile_diesAtEachStep(t *testing.T) {
	r := newRig(t)
	r.daemon()
	in := r.innocent()
	var before held
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			r := *r
			r.t = t
			r.dom = r.domain("mortal")
			m := &mallory{r: &r}
			var err error
			m.r.domU, err = xensim.Connect(t.Context(), r.dir, r.dom.ID)
			r.check(err)
			stream, err := r.domU.OpenStore(t.Context())
			r.check(err)
			r.guest = xenstore.New(stream)
			m.c = r.attach(channel.Spec{Name: "short"})
			m.await("2")
			step.do(m)
			r.guest.Close()
			r.domU.Close() // every process of it at once
			r.check(r.host.DestroyDomain(r.dom.ID))
			r.eventually("its socket goes", func() bool { return !exists(m.c.Path) })
			if before.Files == 0 {
				before = r.held()
			}
			r.heldAgain(before)
			in.take(t)
		})
	}
}

// violate commits one violation on a channel that is made for it, and checks what
// becomes of the channel. It returns the echoes of the innocent meanwhile.
func (m *mallory) violate(v violation, in *innocent) trips {
	t := m.r.t
	t.Helper()
	m.c = m.r.attach(channel.Spec{Name: "hostile", Spool: 64 << 10})
	defer m.letGo()
	m.await("2")
	in.take(t)
	if v.early != nil {
		v.early(m)
	} else {
		m.share()
		m.publish()
		m.await("4")
		v.late(m)
	}
	if v.ends != "" {
		m.await(v.ends)
		// And there it stays: the daemon has looked since.
		m.r.eventually("an echo", func() bool { in.mu.Lock(); defer in.mu.Unlock(); return len(in.trips) > 2 })
		if s := m.state(); s != v.ends {
			t.Errorf("in state %s, then in %s", v.ends, s)
		}
	}
	m.r.eventually("an echo", func() bool { in.mu.Lock(); defer in.mu.Unlock(); return len(in.trips) > 2 })
	trips := in.take(t)
	t.Log(trips)
	if !v.lost {
		m.behave()
	}
	m.r.remove(m.c)
	m.r.eventually("its socket goes", func() bool { return !exists(m.c.Path) })
	return trips
}

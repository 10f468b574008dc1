package daemon_test

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
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
	"github.com/xenchan/xenchan/xenstore/wire"
)

// mallory is a guest that breaks the protocol, and one channel of it. It does so in a
// process of its own; what it has of it in the test's process sees to it that the
// guest behaves later on.
type mallory struct {
	r          *rig
	dom0       *xensim.Conn
	foreignRef string // granted to us, by another guest
	c          toolstack.Channel

	pages xen.SharedPages // the latest
	event xen.EventChannel
	used  []io.Closer

	enough atomic.Bool // it is to end what it does without end
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

// storm does something until it was enough.
func (m *mallory) storm(f func()) {
	for !m.enough.Load() {
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
			time.Sleep(500 * time.Microsecond)
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

// next is how long the next n echoes take.
func (in *innocent) next(t testing.TB, n int) trips {
	t.Helper()
	in.take(t)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		in.mu.Lock()
		have := len(in.trips)
		in.mu.Unlock()
		if have >= n {
			return in.take(t)
		}
		if time.Now().After(end) {
			t.Fatalf("%d echoes in 20 seconds", have)
		}
	}
}

type trips []time.Duration

func (t trips) at(share float64) time.Duration {
	if len(t) == 0 {
		return 0
	}
	return t[int(share*float64(len(t)-1))].Round(time.Microsecond)
}

func (t trips) String() string {
	if len(t) == 0 {
		return "no echo"
	}
	return fmt.Sprintf("%d echoes, p50 %v, p99 %v, max %v", len(t), t.at(.5), t.at(.99), t.at(1))
}

// bound is how long an innocent guest's echo may take at p99 beside any violation.
const bound = 10 * time.Millisecond

// echoes is how many are measured beside each violation unless `make hostile` says
// another number, which is 200.
const echoes = 50

// A guest that violates the protocol harms its own channel alone: another guest's
// echo goes on as if it were alone, the daemon's loops go round, nothing stays held,
// and the channel itself can be used once the guest behaves.
//
// The hostile guest is a process of its own, as it would be a domain of its own: in
// the test's process it would share the Go scheduler with the daemon. It still shares
// the processors, with the innocent guest, the daemon, and with whatever else runs
// on the machine, which may hold up an echo by itself. So what is too slow is tried
// again, up to three times, and as many echoes without a violation are measured right after
// each: the machine may have taken half of the time. Real harm is there each time.
func TestHostile(t *testing.T) {
	if order := os.Getenv(malloryOrder); order != "" {
		playMallory(t, order)
		return
	}
	r := newRig(t)
	var beats atomic.Int64
	r.pulse = func() { beats.Add(1) }
	r.daemon()
	in := r.innocent()
	foreign, err := r.domU.SharePages(0, 60)
	r.check(err)
	defer foreign.Close()
	m := &mallory{r: r, foreignRef: foreign.Refs()[59].String()}
	r.dom = r.domain("mallory")
	r.domU, r.guest = r.connect(r.dom.ID)
	n, quiet := count(t, "ECHOES", echoes), r.host.Domains()
	var table []string
	run := func(i int, v violation, before *held) {
		t.Run(v.name, func(t *testing.T) {
			r := *r
			r.t = t
			for try := 1; ; try++ {
				was := beats.Load()
				m := &mallory{r: &r, foreignRef: m.foreignRef}
				got := m.violate(i, v, in, n)
				var alone trips
				if got.at(.99) > bound {
					alone = in.next(t, n)
				}
				if before.Files == 0 {
					r.eventually("the hostile guest's process is gone", func() bool { return slices.Equal(r.host.Domains(), quiet) })
					*before = r.held()
				}
				r.heldAgain(*before)
				r.eventually("the daemon's loops go round", func() bool { return beats.Load() > was+1 })
				table = append(table, fmt.Sprintf("%-50s %v", v.name, got))
				if got.at(.99) <= max(bound, 2*alone.at(.99)) {
					return
				}
				t.Logf("try %d: %v; without a violation: %v", try, got, alone)
				if try == 3 {
					t.Errorf("an innocent guest's echo takes more than %v at p99", bound)
					return
				}
			}
		})
	}
	var before held
	run(-1, none, &before)
	for i, v := range violations() {
		run(i, v, &before)
	}
	t.Logf("echoes of an innocent guest beside each violation:\n%s", strings.Join(table, "\n"))
	if listed := len(violations()); listed < 40 {
		t.Errorf("only %d violations are listed", listed)
	}
}

// none is for comparison: a process that does nothing.
var none = violation{name: "none", late: func(m *mallory) { m.storm(func() { time.Sleep(time.Millisecond) }) }, ends: "4"}

// malloryOrder is the environment variable that makes the test's program a hostile
// guest: host's directory, domid, another guest's grant, number of the violation.
const malloryOrder = "XENCHAN_TEST_MALLORY"

// playMallory commits one violation, in steps that the test asks for by lines.
func playMallory(t *testing.T, order string) {
	r := &rig{t: t}
	m := &mallory{r: r}
	var number int
	if _, err := fmt.Sscan(order, &r.dir, &r.dom.ID, &m.foreignRef, &number); err != nil {
		t.Fatal(err)
	}
	v := none
	if number >= 0 {
		v = violations()[number]
	}
	m.dom0, r.store = r.connect(0)
	r.tools = &toolstack.Toolstack{Store: r.store, RunDir: r.runDir()}
	r.domU, r.guest = r.connect(r.dom.ID)
	defer m.letGo()
	var err error
	m.c, err = r.tools.Find(t.Context(), r.dom, "hostile")
	r.check(err)
	steps := bufio.NewScanner(os.Stdin)
	act := v.late
	if act == nil {
		act = v.early
	} else {
		m.share()
		m.publish()
		m.await("4")
	}
	fmt.Println("ready")
	steps.Scan()
	did := make(chan struct{})
	go func() { defer close(did); act(m) }()
	steps.Scan()
	m.enough.Store(true)
	<-did
	fmt.Println("done")
	steps.Scan() // what it holds is held until the test has seen what came of it
}

// accomplice is the process of a hostile guest.
type accomplice struct {
	t     *testing.T
	cmd   *exec.Cmd
	steps io.WriteCloser
	says  *bufio.Scanner
}

func (m *mallory) accomplice(number int) *accomplice {
	t := m.r.t
	t.Helper()
	a := &accomplice{t: t, cmd: exec.Command(os.Args[0], "-test.run=^TestHostile$")}
	a.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s %d", malloryOrder, m.r.dir, m.r.dom.ID, m.foreignRef, number))
	a.cmd.Stderr = t.Output()
	var err error
	a.steps, err = a.cmd.StdinPipe()
	m.r.check(err)
	out, err := a.cmd.StdoutPipe()
	m.r.check(err)
	a.says = bufio.NewScanner(out)
	m.r.check(a.cmd.Start())
	return a
}

// step has it go on, and waits for what it says then.
func (a *accomplice) step(want string) {
	a.t.Helper()
	if want != "ready" {
		_, _ = io.WriteString(a.steps, "\n")
	}
	if !a.says.Scan() || a.says.Text() != want {
		a.t.Fatalf("the hostile guest says %q, not %q", a.says.Text(), want)
	}
}

// end waits for its end.
func (a *accomplice) end() {
	a.t.Helper()
	a.steps.Close()
	for a.says.Scan() { // what the test program says at its end
	}
	if err := a.cmd.Wait(); err != nil {
		a.t.Errorf("the hostile guest: %v", err)
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
// becomes of the channel. It returns n echoes of the innocent meanwhile.
func (m *mallory) violate(number int, v violation, in *innocent, n int) trips {
	t := m.r.t
	t.Helper()
	m.c = m.r.attach(channel.Spec{Name: "hostile", Spool: 64 << 10})
	m.await("2")
	a := m.accomplice(number)
	defer a.end()
	a.step("ready")
	in.take(t)
	_, _ = io.WriteString(a.steps, "\n")
	got := in.next(t, n)
	a.step("done")
	if v.ends != "" {
		m.await(v.ends)
		// And there it stays: the daemon has looked since.
		in.next(t, 10)
		if s := m.state(); s != v.ends {
			t.Errorf("in state %s, then in %s", v.ends, s)
		}
	}
	if !v.lost {
		m.behave()
	}
	m.r.remove(m.c)
	m.r.eventually("its socket goes", func() bool { return !exists(m.c.Path) })
	return got
}

package daemon_test

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/daemon"
)

func TestRun_findsWhatIsThere(t *testing.T) {
	r := newRig(t)
	a, b := r.attach(channel.Spec{Name: "a"}), r.attach(channel.Spec{Name: "b"})
	guest := r.frontend(a)
	r.write(<-guest.conns, []byte("before there was a daemon"))
	r.eventually("the guest offers its ring", func() bool {
		s, _ := r.store.Read(t.Context(), a.Frontend+"/state")
		return s == "3"
	})
	r.daemon() // ready only when both are settled, at both ends
	if !exists(a.Path) || !exists(b.Path) {
		t.Error("ready, but a socket is missing")
	}
	for c, want := range map[string]string{a.Backend: "4", b.Backend: "2"} {
		if s, _ := r.store.Read(t.Context(), c+"/state"); s != want {
			t.Errorf("ready, and %s is in state %s, not %s", c, s, want)
		}
	}
	r.expect(r.dial(a.Path), []byte("before there was a daemon"))
	if n := len(r.status()); n != 2 {
		t.Errorf("%d rows", n)
	}
}

// The daemon stops without a word to the guest, and the next one goes on.
func TestRun_restart(t *testing.T) {
	r := newRig(t)
	d := r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	r.expectBothWays(guest, r.dial(c.Path), "before")
	before := r.dump()
	d.stop()
	if d.err != nil {
		t.Errorf("Run: %v", d.err)
	}
	if diff := cmp.Diff(before, r.dump()); diff != "" {
		t.Errorf("the daemon has left other nodes (-before +after):\n%s", diff)
	}
	if exists(c.Path) || exists(filepath.Join(r.runDir(), "daemon.sock")) {
		t.Error("sockets are left")
	}
	if _, err := daemon.Query(t.Context(), r.runDir()); err == nil || !strings.Contains(err.Error(), "no daemon answers") {
		t.Errorf("Query without a daemon: %v", err)
	}
	r.write(guest, []byte("meanwhile"))
	r.daemon()
	client := r.dial(c.Path)
	r.expect(client, []byte("meanwhile"))
	r.expectBothWays(guest, client, "after")
}

func (r *rig) expectBothWays(guest, client interface {
	Read([]byte) (int, error)
	Write([]byte) (int, error)
}, msg string,
) {
	r.t.Helper()
	r.write(client, []byte(msg+", guest"))
	r.expect(guest, []byte(msg+", guest"))
	r.write(guest, []byte(msg+", host"))
	r.expect(client, []byte(msg+", host"))
}

func TestRun_twoOnOneRunDir(t *testing.T) {
	r := newRig(t)
	d := r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	second, _ := r.launch()
	<-second.ended
	if second.err == nil || !strings.Contains(second.err.Error(), "already running") {
		t.Errorf("the second: %v", second.err)
	}
	r.expectBothWays(guest, r.dial(c.Path), "undisturbed")
	d.stop()

	// A killed daemon leaves its sockets.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(r.runDir(), "daemon.sock")})
	r.check(err)
	l.SetUnlinkOnClose(false)
	r.check(l.Close())
	r.daemon()
	r.status()
}

// Of many that start at once, one serves.
func TestRun_manyStartAtOnce(t *testing.T) {
	r := newRig(t)
	var all []*server
	for range 8 {
		s, _ := r.launch()
		all = append(all, s)
	}
	alive := func() int {
		return len(slices.DeleteFunc(slices.Clone(all), func(s *server) bool {
			select {
			case <-s.ended:
				return true
			default:
				return false
			}
		}))
	}
	r.eventually("one is left", func() bool { return alive() == 1 })
	r.eventually("it answers", func() bool { _, err := daemon.Query(t.Context(), r.runDir()); return err == nil })
	if alive() != 1 {
		t.Error("none is left")
	}
}

func TestRun_storeLost(t *testing.T) {
	r := newRig(t)
	d := r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	client := r.dial(c.Path)
	r.expectBothWays(guest, client, "hello")
	d.store.Close()
	select {
	case <-d.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("Run does not return")
	}
	if d.err == nil || !strings.Contains(d.err.Error(), "xenstore") {
		t.Errorf("Run: %v", d.err)
	}
}

func TestRun_hostGone(t *testing.T) {
	r := newRig(t)
	d := r.daemon()
	r.boot(r.attach(channel.Spec{Name: "a"}))
	r.host.Close()
	select {
	case <-d.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("Run does not return")
	}
	if d.err == nil {
		t.Error("Run says nothing")
	}
}

// What is not of our type belongs to QEMU: no node is touched.
func TestDevice_notOurs(t *testing.T) {
	r := newRig(t)
	c := r.attach(channel.Spec{Name: "a"})
	r.check(r.store.Write(t.Context(), c.Frontend+"/type", "ioemu"))
	before := r.dump()
	r.daemon()
	ours := r.attach(channel.Spec{Name: "ours"})
	r.boot(ours)
	if exists(c.Path) || len(r.status()) != 1 {
		t.Errorf("it is served: %+v", r.status())
	}
	r.check(r.tools.Detach(t.Context(), r.dom, "ours"))
	if diff := cmp.Diff(before, r.dump()); diff != "" {
		t.Errorf("other nodes (-before +after):\n%s", diff)
	}
}

// A toolstack without transactions may write the frontend last.
func TestDevice_typeComesLate(t *testing.T) {
	r := newRig(t)
	c := r.attach(channel.Spec{Name: "a"})
	r.check(r.store.Remove(t.Context(), c.Frontend+"/type"))
	r.daemon() // is ready all the same
	if exists(c.Path) {
		t.Error("served before it was known whose it is")
	}
	r.check(r.store.Write(t.Context(), c.Frontend+"/type", "xenchan"))
	r.expectBothWays(r.boot(c), r.dial(c.Path), "late")
}

// Nodes that make no sense are that channel's problem alone, until a good one
// takes its place.
func TestDevice_badNodes(t *testing.T) {
	r := newRig(t)
	bad := r.attach(channel.Spec{Name: "bad"})
	r.check(r.store.Write(t.Context(), bad.Backend+"/mode", "rw"))
	r.daemon() // is ready all the same
	other := r.attach(channel.Spec{Name: "other"})
	guest, client := r.boot(other), r.dial(other.Path)
	r.expectBothWays(guest, client, "undisturbed")
	if exists(bad.Path) || len(r.status()) != 1 {
		t.Errorf("it is served: %+v", r.status())
	}
	r.remove(bad)
	good := r.attach(channel.Spec{Name: "good"})
	if good.Backend != bad.Backend {
		t.Fatalf("%s is not in the place of %s", good.Backend, bad.Backend)
	}
	r.expectBothWays(r.boot(good), r.dial(good.Path), "well")
	r.expectBothWays(guest, client, "still undisturbed")
}

func TestDevice_pathIsTaken(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(t.TempDir(), "a.sock")
	c := r.attach(channel.Spec{Name: "a", Path: path})
	r.check(os.WriteFile(path, []byte("precious"), 0o600))
	r.daemon() // is ready all the same
	guest := r.boot(c)
	want := pattern(200_000)
	r.write(guest, want) // is not frozen
	r.eventually("all taken", func() bool { return r.row(c).GuestToHost == 200_000 })
	if s := r.row(c); !strings.Contains(s.Problem, path) || !strings.Contains(s.Problem, "regular file") {
		t.Errorf("%+v", s)
	}
	if p, err := os.ReadFile(path); string(p) != "precious" {
		t.Errorf("the file was touched: %q, %v", p, err)
	}
	r.check(os.Remove(path))
	r.expect(r.dial(path), want)
	if s := r.row(c); s.Problem != "" || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

func TestDevice_socketRights(t *testing.T) {
	r := newRig(t)
	r.daemon()
	uid, gid := strconv.Itoa(os.Getuid()), os.Getgid()
	if gid == 0 {
		gid = 12345
	}
	for _, c := range []struct {
		spec channel.Spec
		mode os.FileMode
		gid  int
	}{
		{channel.Spec{Name: "usual"}, 0o600, os.Getgid()},
		{channel.Spec{Name: "open", Mode: 0o666, Owner: uid, Group: strconv.Itoa(gid)}, 0o666, gid},
	} {
		ch := r.attach(c.spec)
		r.dial(ch.Path)
		info, err := os.Stat(ch.Path)
		r.check(err)
		if info.Mode().Perm() != c.mode || int(info.Sys().(*syscall.Stat_t).Gid) != c.gid {
			t.Errorf("%s: %v, group %d", c.spec.Name, info.Mode(), info.Sys().(*syscall.Stat_t).Gid)
		}
	}
	nobody := r.attach(channel.Spec{Name: "nobody", Owner: "no.such.user"})
	r.eventually("the problem is shown", func() bool {
		return slices.ContainsFunc(r.status(), func(s daemon.Status) bool {
			return s.DevID == nobody.DevID && strings.Contains(s.Problem, "no.such.user")
		})
	})
}

func TestDevice_domainDestroyed(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	client := r.dial(c.Path)
	r.expectBothWays(guest, client, "alive")
	r.write(guest, []byte("panic"))
	r.check(r.host.DestroyDomain(r.dom.ID))
	r.expect(client, []byte("panic"))
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("the client is still connected")
	}
	r.eventually("no zombie", func() bool { _, there := r.info(r.dom.ID); return !there })
	r.eventually("no row", func() bool { return len(r.status()) == 0 })
	r.eventually("no socket", func() bool { return !exists(c.Path) })
}

// The domain is gone before its toolstack has removed the nodes.
func TestDevice_domainReleased(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	r.boot(c)
	r.check(r.store.Release(t.Context(), r.dom.ID))
	r.eventually("nothing of it is held", func() bool { d, _ := r.info(0); return d.Mapped == 0 && d.Ports == 0 })
	r.eventually("it is not served", func() bool { return len(r.status()) == 0 && !exists(c.Path) })
	r.remove(c)
}

// The counters are the channel's, not the ring's, and a client stays.
func TestDevice_guestRestarts(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	client := r.dial(c.Path)
	for i := range 3 {
		front := r.frontend(c)
		r.connected(c)
		r.expectBothWays(<-front.conns, client, "round")
		front.stop()
		r.check(r.guest.Write(t.Context(), c.Frontend+"/state", "6"))
		state := func(want string) bool { s, _ := r.store.Read(t.Context(), c.Backend+"/state"); return s == want }
		r.eventually("closed", func() bool { return state("6") })
		n := uint64(i + 1)
		if s := r.row(c); s.HostToGuest != n*uint64(len("round, guest")) || s.GuestToHost != n*uint64(len("round, host")) || s.Clients != 1 {
			t.Errorf("after %d rounds %+v", n, s)
		}
		r.check(r.guest.Write(t.Context(), c.Frontend+"/state", "1"))
		r.eventually("waiting", func() bool { return state("2") })
	}
}

// A domain that has shut down keeps its nodes until it is destroyed.
func TestDevice_domainShutDown(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	r.write(guest, []byte("good night"))
	r.check(r.host.ShutdownDomain(r.dom.ID))
	r.expect(r.dial(c.Path), []byte("good night"))
	r.check(r.host.DestroyDomain(r.dom.ID))
	r.eventually("no zombie", func() bool { _, there := r.info(r.dom.ID); return !there })
}

func TestDevice_hostileRing(t *testing.T) {
	r := newRig(t)
	r.daemon()
	bad, good := r.attach(channel.Spec{Name: "bad"}), r.attach(channel.Spec{Name: "good"})
	pages, err := r.domU.SharePages(0, 1)
	r.check(err)
	defer pages.Close()
	event, err := r.domU.AllocUnbound(0)
	r.check(err)
	defer event.Close()
	for node, value := range map[string]string{"ring-ref": pages.Refs()[0].String(), "port": event.Port().String()} {
		r.check(r.guest.Write(t.Context(), bad.Frontend+"/"+node, value))
	}
	r.check(r.guest.Write(t.Context(), bad.Frontend+"/state", "3"))
	guest, client := r.boot(good), r.dial(good.Path)
	r.expectBothWays(guest, client, "before")
	state := func() string { s, _ := r.store.Read(t.Context(), bad.Backend+"/state"); return s }
	r.eventually("the other is connected too", func() bool { return state() == "4" })
	binary.NativeEndian.PutUint32(pages.Bytes()[3084:], 0x80000000) // out_prod
	r.check(event.Notify())
	r.eventually("the hostile one is closed", func() bool { return state() == "5" })
	r.expectBothWays(guest, client, "after")
	if d, _ := r.info(0); d.Mapped != 1 {
		t.Errorf("%+v", d)
	}
}

// The place of a detached channel is taken by another one at once.
func TestDevice_replaced(t *testing.T) {
	r := newRig(t)
	r.daemon()
	old := r.attach(channel.Spec{Name: "old"})
	client := r.dial(old.Path)
	for i, name := range []string{"b", "c", "d", "e"} {
		r.remove(old)
		c := r.attach(channel.Spec{Name: name})
		if c.Backend != old.Backend {
			t.Fatalf("%s is not in the place of %s", c.Backend, old.Backend)
		}
		next := r.dial(c.Path)
		if _, err := client.Read(make([]byte, 1)); err == nil {
			t.Error("the old channel's client lives on")
		}
		r.eventually("the old socket goes", func() bool { return !exists(old.Path) })
		if i == 3 {
			r.expectBothWays(r.boot(c), next, "well")
		}
		old, client = c, next
	}
}

// The same name in the same place, with a client who has not read everything:
// the old channel takes a moment to end, and the new one must not be forgotten.
func TestDevice_replacedWhileItEnds(t *testing.T) {
	r := newRig(t)
	r.daemon()
	for range 3 {
		c := r.attach(channel.Spec{Name: "a"})
		front := r.frontend(c)
		r.connected(c)
		client := r.dial(c.Path)
		r.eventually("connected", func() bool { return r.row(c).Clients == 1 })
		r.write(<-front.conns, pattern(600_000)) // more than a socket takes
		r.remove(c)
		front.stop()
		time.Sleep(5 * time.Millisecond) // the device has seen that
		c = r.attach(channel.Spec{Name: "a"})
		client.Close()
		front = r.frontend(c)
		r.connected(c)
		guest := <-front.conns
		r.eventually("the new channel is served", func() bool {
			c, err := net.Dial("unix", c.Path)
			if err == nil {
				c.Close()
			}
			return err == nil && len(r.status()) == 1
		})
		r.write(guest, []byte("new"))
		r.eventually("by a new device", func() bool { s := r.row(c); return s.GuestToHost == 3 })
		r.remove(c)
		front.stop()
	}
}

func TestDetach_isQuick(t *testing.T) {
	r := newRig(t)
	r.daemon()
	var took time.Duration
	for range 10 { // more than one for a machine that is busy
		r.boot(r.attach(channel.Spec{Name: "a"}))
		begin := time.Now()
		r.check(r.tools.Detach(t.Context(), r.dom, "a"))
		if took = time.Since(begin); took < 800*time.Millisecond {
			return
		}
	}
	t.Errorf("it took %v: somebody has not answered", took)
}

// Two guests with devices of the same number do not meet.
func TestDevice_twoDomains(t *testing.T) {
	r := newRig(t)
	r.daemon()
	a := r.attach(channel.Spec{Name: "a"})
	guestA, clientA := r.boot(a), r.dial(a.Path)
	r.dom = r.domain("other")
	r.domU, r.guest = r.connect(r.dom.ID)
	b := r.attach(channel.Spec{Name: "a"})
	guestB, clientB := r.boot(b), r.dial(b.Path)
	if a.DevID != b.DevID || a.Path == b.Path {
		t.Fatalf("%+v and %+v", a, b)
	}
	r.expectBothWays(guestB, clientB, "b")
	r.expectBothWays(guestA, clientA, "a")
	r.check(r.host.DestroyDomain(r.dom.ID))
	r.eventually("one row", func() bool { return len(r.status()) == 1 })
	r.expectBothWays(guestA, clientA, "still")
	if errors.Is(r.host.DestroyDomain(r.dom.ID), nil) {
		t.Error("destroyed twice")
	}
}

package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/endpoint/unixsock"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/toolstack"
)

func (r *rig) public(c toolstack.Channel) daemon.Channel {
	return daemon.Channel{RunDir: r.runDir(), DomID: c.DomID, DevID: c.DevID, Name: c.Name}
}

// onlooker collects what an observer gets.
type onlooker struct {
	r      *rig
	pieces chan daemon.Observed
	ended  chan error
	stop   func()
}

func (r *rig) observe(c toolstack.Channel) *onlooker {
	r.t.Helper()
	o := &onlooker{r: r, pieces: make(chan daemon.Observed, 10_000), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		o.ended <- r.public(c).Observe(ctx, func(p daemon.Observed) error { o.pieces <- p; return nil })
		close(o.ended)
	}()
	o.stop = func() {
		cancel()
		for range o.ended {
		}
	}
	r.t.Cleanup(o.stop)
	return o
}

func (o *onlooker) next() daemon.Observed {
	o.r.t.Helper()
	select {
	case p := <-o.pieces:
		return p
	case <-time.After(10 * time.Second):
		o.r.t.Fatal("the observer gets nothing")
		return daemon.Observed{}
	}
}

// expect waits for these bytes, in a row.
func (o *onlooker) expect(at int64, want string) {
	o.r.t.Helper()
	for got := ""; got != want; {
		p := o.next()
		if got += string(p.Data); p.At+int64(len(p.Data)) != at+int64(len(got)) || !strings.HasPrefix(want, got) {
			o.r.t.Fatalf("the observer gets %.60q at %d, want %.60q from %d on", p.Data, p.At, want, at)
		}
	}
}

// An observer sees what the guest sends from then on, in front of a client or of
// nobody, and takes nothing from clients.
func TestObserve(t *testing.T) {
	for _, kind := range []channel.Connection{channel.Socket, channel.PTY} {
		t.Run(string(kind), func(t *testing.T) {
			r := newRig(t)
			r.daemon()
			c := r.attach(channel.Spec{Name: "a", Connection: kind})
			guest := r.boot(c)
			events := r.listen()
			r.write(guest, []byte("before."))
			r.eventually("it is spooled", func() bool { return r.row(c).GuestToHost == 7 })
			first := r.observe(c)
			if p := first.next(); p.At != 7 || len(p.Data) > 0 {
				t.Fatalf("it begins with %+v", p)
			}
			r.write(guest, []byte("to one."))
			first.expect(7, "to one.")
			second := r.observe(c)
			second.expect(14, "")
			second.next()
			if e := events.next(channel.EventObserver); e.Change != channel.ClientConnected || *e.Observers != 1 || *e.PID != int32(os.Getpid()) {
				t.Errorf("%+v", e)
			}
			events.next(channel.EventObserver)
			if s := r.row(c); s.Observers != 2 || s.Clients != 0 || s.Spooled != 14 {
				t.Errorf("%+v", s)
			}
			r.write(guest, []byte("to both."))
			first.expect(14, "to both.")
			second.expect(14, "to both.")
			second.stop()
			if e := events.next(channel.EventObserver); e.Change != channel.ClientLeft || *e.Observers != 1 {
				t.Errorf("%+v", e)
			}
			r.expect(r.client(c), []byte("before.to one.to both."))
			r.check(r.tools.Detach(t.Context(), r.dom, "a"))
			if p := first.next(); !p.Ended || p.At != 22 {
				t.Errorf("at the end of the channel it gets %+v", p)
			}
			if err := <-first.ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// client is one of a socket or of a terminal.
func (r *rig) client(c toolstack.Channel) io.ReadWriteCloser {
	r.t.Helper()
	if c.Connection == channel.Socket {
		return r.dial(c.Path)
	}
	f, err := os.OpenFile(r.tty(c), os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	r.check(err)
	r.t.Cleanup(func() { f.Close() })
	return f
}

func (r *rig) tty(c toolstack.Channel) (path string) {
	r.t.Helper()
	r.eventually("a terminal", func() bool {
		path, _ = r.store.Read(r.t.Context(), c.Frontend+"/tty")
		return path != ""
	})
	return path
}

// An observer that does not read holds up nobody, and sees how much it has missed.
func TestObserve_slowLoses(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest, client := r.boot(c), r.dial(c.Path)
	slow, err := net.Dial("unix", filepath.Join(r.runDir(), "daemon.public.sock"))
	r.check(err)
	defer slow.Close()
	r.eventually("the client is served", func() bool { return r.row(c).Clients == 1 })
	fmt.Fprintf(slow, "GET /v1/channels/%d/%d/observe?name=a HTTP/1.0\r\n\r\n", c.DomID, c.DevID)
	r.eventually("it looks on", func() bool { return r.row(c).Observers == 1 })
	want := pattern(5_000_000)
	sent := make(chan error)
	go func() { _, err := guest.Write(want); sent <- err }()
	r.expect(client, want)
	r.check(<-sent)
	slow.SetDeadline(time.Now().Add(20 * time.Second))
	body, err := splitHead(slow)
	r.check(err)
	at, seen := int64(0), 0
	for lines := json.NewDecoder(body); at < int64(len(want)); {
		var o daemon.Observed
		r.check(lines.Decode(&o))
		if o.At < at || !bytes.Equal(o.Data, want[o.At:][:len(o.Data)]) {
			t.Fatalf("at %d come %d bytes of %d, or others than the guest sent", at, len(o.Data), o.At)
		}
		at = o.At + int64(len(o.Data))
		seen += len(o.Data)
	}
	if seen == 0 || seen == len(want) {
		t.Errorf("it has seen %d bytes of %d, which proves nothing", seen, len(want))
	}
	t.Logf("it has seen %d bytes of %d", seen, len(want))
}

// splitHead reads the head of an answer.
func splitHead(c io.Reader) (body io.Reader, err error) {
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, b[0]) {
		if _, err := c.Read(b); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Who may be no client may not look on either, nor skip, and is counted.
func TestObserve_rights(t *testing.T) {
	r := newRig(t)
	r.daemon()
	r.check(os.Chmod(filepath.Dir(r.dir), 0o755))
	shut := filepath.Join(r.dir, "shut")
	r.check(os.Mkdir(shut, 0o700))
	nobody := &syscall.Credential{Uid: 65534, Gid: 4711, Groups: []uint32{4712}}
	root := &syscall.Credential{}
	for i, x := range []struct {
		spec channel.Spec
		as   *syscall.Credential
		in   bool
	}{
		{channel.Spec{}, root, true},
		{channel.Spec{}, nobody, false},
		{channel.Spec{Mode: 0o666}, nobody, true},
		{channel.Spec{Mode: 0o660, Group: "4711"}, nobody, true},
		{channel.Spec{Mode: 0o660, Group: "4712"}, nobody, true},
		{channel.Spec{Mode: 0o606, Group: "4712"}, nobody, false}, // as the kernel has it
		{channel.Spec{Mode: 0o660, Owner: "nobody"}, nobody, true},
		{channel.Spec{Allow: "nobody"}, nobody, true},
		{channel.Spec{Allow: "nobody"}, root, false},
		{channel.Spec{Mode: 0o600, Allow: "nobody"}, nobody, false},
		{channel.Spec{Allow: "@4712"}, nobody, true},
		{channel.Spec{Mode: 0o666, Path: shut + "/a.sock"}, nobody, false},
		{channel.Spec{Connection: channel.PTY}, nobody, false},
		{channel.Spec{Connection: channel.PTY, Mode: 0o602}, nobody, false},
		{channel.Spec{Connection: channel.PTY, Mode: 0o606}, nobody, true},
		{channel.Spec{Connection: channel.PTY}, root, true},
	} {
		x.spec.Name = fmt.Sprint("c", i)
		c := r.attach(x.spec)
		url := fmt.Sprintf("http://daemon/v1/channels/%d/%d/skip?name=%s", c.DomID, c.DevID, c.Name)
		var out []byte
		var err error
		r.eventually("the daemon knows the channel", func() bool {
			cmd := exec.Command("curl", "-sS", "-X", "POST", "--unix-socket", filepath.Join(r.runDir(), "daemon.public.sock"), "-w", "%{http_code}", url)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: x.as}
			out, err = cmd.CombinedOutput()
			return !bytes.HasSuffix(out, []byte("404"))
		})
		want := "403"
		if x.in {
			want = "200"
		}
		if err != nil || !bytes.HasSuffix(out, []byte(want)) {
			t.Errorf("%+v as user %d: %s, %v; want %s", x.spec, x.as.Uid, out, err, want)
		}
		if n := r.row(c).Refused; (n == 0) != x.in {
			t.Errorf("%+v as user %d: %d refused", x.spec, x.as.Uid, n)
		}
		r.check(r.tools.Detach(t.Context(), r.dom, c.Name))
	}
}

// Observers are bounded; so are connections of those who ask for nothing.
func TestObserve_tooMany(t *testing.T) {
	r := newRig(t)
	d := r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	r.boot(c)
	for range 32 {
		r.observe(c).next()
	}
	err := r.public(c).Observe(t.Context(), func(daemon.Observed) error { return nil })
	if !errors.Is(err, daemon.ErrRefused) || !strings.Contains(err.Error(), "too many observers") {
		t.Errorf("one too many: %v", err)
	}
	var idle []net.Conn
	for range 200 {
		x, err := net.Dial("unix", filepath.Join(r.runDir(), "daemon.public.sock"))
		r.check(err)
		defer x.Close()
		idle = append(idle, x)
	}
	turned := make(chan bool, len(idle))
	for _, x := range idle {
		x.SetReadDeadline(time.Now().Add(3 * time.Second)) // less than what ends an idle one
		go func() { _, err := x.Read(make([]byte, 1)); turned <- err == io.EOF }()
	}
	for range len(idle) - 48 {
		if !<-turned {
			t.Fatal("not all connections that are too many were closed at once")
		}
	}
	r.boot(r.attach(channel.Spec{Name: "b"})) // the daemon works
	d.stop()                                  // and does not wait for them
}

// Names are those of channels that are served, and nothing else.
func TestObserve_noChannel(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	r.boot(c)
	for _, x := range []daemon.Channel{
		{RunDir: r.runDir(), DomID: c.DomID, DevID: c.DevID, Name: "b"},
		{RunDir: r.runDir(), DomID: c.DomID, DevID: c.DevID + 1, Name: "a"},
		{RunDir: r.runDir(), DomID: c.DomID + 1, DevID: c.DevID, Name: "a"},
	} {
		if _, err := x.Skip(t.Context()); !errors.Is(err, daemon.ErrRefused) {
			t.Errorf("%+v: %v", x, err)
		}
	}
}

// A client that begins from now gets nothing of what is spooled, and what it has not
// got is counted; one that waits for its turn begins when that comes.
func TestLive(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	events := r.listen()
	live := func() net.Conn {
		d := net.Dialer{LocalAddr: unixsock.LiveAddr()}
		x, err := d.Dial("unix", c.Path)
		r.check(err)
		t.Cleanup(func() { x.Close() })
		return x
	}
	r.write(guest, pattern(100_000))
	r.eventually("it is spooled", func() bool { return r.row(c).GuestToHost == 100_000 })
	first := live()
	if e := events.next(channel.EventSkip); e.Skipped != 100_000 || *e.AllSkipped != 100_000 {
		t.Errorf("%+v", e)
	}
	r.write(guest, []byte("now"))
	r.expect(first, []byte("now"))
	second := live()
	r.write(guest, []byte("of the first"))
	r.expect(first, []byte("of the first"))
	r.write(guest, bytes.Repeat([]byte("x"), 300_000)) // more than the kernel holds for the first
	r.eventually("they are taken", func() bool { return r.row(c).GuestToHost == 400_015 })
	first.Close()
	skipped := events.next(channel.EventSkip)
	r.write(guest, []byte("of the second"))
	r.expect(second, []byte("of the second"))
	r.eventually("all is delivered", func() bool { return r.row(c).Spooled == 0 })
	if s := r.row(c); s.Skipped != *skipped.AllSkipped || s.Skipped <= 100_000 || s.Dropped != 0 {
		t.Errorf("%+v after %+v", s, skipped)
	}
}

// The same on a terminal, where bytes wait in the kernel too.
func TestSkip_terminal(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a", Connection: channel.PTY})
	guest := r.boot(c)
	client := r.client(c)
	r.write(guest, []byte("hello"))
	r.expect(client, []byte("hello"))
	if _, err := r.public(c).Skip(t.Context()); !errors.Is(err, daemon.ErrRefused) {
		t.Errorf("while there is a client: %v", err)
	}
	r.write(guest, pattern(50_000)) // the terminal holds some
	r.eventually("they are taken", func() bool { s := r.row(c); return s.GuestToHost == 50_005 && s.Spooled < 50_000 })
	client.Close()
	r.eventually("it has left", func() bool { return r.row(c).Clients == 0 })
	n, err := r.public(c).Skip(t.Context())
	if err != nil || n != 50_000 {
		t.Errorf("%d bytes are skipped, %v", n, err)
	}
	client = r.client(c)
	r.write(guest, []byte("now"))
	r.expect(client, []byte("now"))
	if s := r.row(c); s.Skipped != 50_000 {
		t.Errorf("%+v", s)
	}
}

package daemon_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/daemon"
)

// listener collects a daemon's events.
type listener struct {
	r      *rig
	events chan channel.Event
}

func (r *rig) listen() *listener {
	r.t.Helper()
	l := &listener{r: r, events: make(chan channel.Event, 10_000)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- daemon.Subscribe(ctx, r.runDir(), func(e channel.Event) error { l.events <- e; return nil })
	}()
	r.t.Cleanup(func() { cancel(); <-ended })
	if e := l.next(channel.EventDaemon); e.Running == nil || !*e.Running {
		r.t.Fatalf("the first event is %+v", e)
	}
	return l
}

// next is the next event of a kind; others are skipped.
func (l *listener) next(kind channel.EventKind) channel.Event {
	l.r.t.Helper()
	end := time.After(20 * time.Second)
	for {
		select {
		case e := <-l.events:
			if e.Kind == kind {
				return e
			}
		case <-end:
			l.r.t.Fatalf("no %s event comes", kind)
		}
	}
}

func TestEvents_clients(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	r.boot(c)
	l := r.listen()
	say := func(e channel.Event) string {
		text := fmt.Sprintf("%s of domain %d, %d %s", e.Change, e.DomID, e.DevID, e.Name)
		if e.Clients != nil {
			text += fmt.Sprintf(", %d here", *e.Clients)
		}
		if e.WaitingClients != nil {
			text += fmt.Sprintf(", %d wait", *e.WaitingClients)
		}
		return text
	}
	expect := func(want string) channel.Event {
		t.Helper()
		e := l.next(channel.EventClient)
		if got := say(e); got != want {
			t.Errorf("event %q, want %q", got, want)
		}
		return e
	}
	first := r.dial(c.Path)
	if e := expect("connected of domain 1, 1 a, 1 here"); e.PID == nil || *e.PID == 0 || e.UID == nil {
		t.Errorf("who it was: %+v", e)
	}
	second := r.dial(c.Path)
	expect("waiting of domain 1, 1 a, 1 here, 1 wait")
	third := r.dial(c.Path)
	expect("waiting of domain 1, 1 a, 1 here, 2 wait")
	if s := r.row(c); s.Clients != 1 || s.Waiting == nil || *s.Waiting != 2 {
		t.Errorf("status %+v", s)
	}
	first.Close()
	expect("left of domain 1, 1 a, 0 here")
	expect("connected of domain 1, 1 a, 1 here")
	second.Close()
	third.Close()
	expect("left of domain 1, 1 a, 0 here")
	expect("connected of domain 1, 1 a, 1 here")
	expect("left of domain 1, 1 a, 0 here")
}

func TestEvents_guestReads(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	l := r.listen()
	client := r.dial(c.Path)
	r.write(client, []byte("hello"))
	r.expect(guest, []byte("hello"))
	if e := l.next(channel.EventGuest); e.Guest != channel.GuestReading || e.Name != "a" {
		t.Errorf("%+v", e)
	}
}

// Every lost byte is told once, with its position, and what comes through is the rest.
func TestEvents_lossesAreExact(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a", Spool: 5000})
	guest := r.boot(c)
	l := r.listen()
	sent := pattern(123_456)
	r.write(guest, sent[:100_000])
	var lost []channel.Loss
	sum := func() (n int64) {
		for _, x := range lost {
			n += x.Bytes
		}
		return n
	}
	for sum() < 95_000 {
		e := l.next(channel.EventLoss)
		lost = append(lost, *e.Lost)
		if e.Dropped == nil || int64(*e.Dropped) < sum() {
			t.Errorf("%+v", e)
		}
	}
	client := r.dial(c.Path)
	r.expect(client, sent[95_000:100_000])
	client.Close()
	r.eventually("gone", func() bool { s := r.row(c); return s.Clients == 0 && s.Spooled == 0 })
	r.write(guest, sent[100_000:])
	for sum() < 95_000+18_456 {
		lost = append(lost, *l.next(channel.EventLoss).Lost)
	}
	var got []byte
	at := int64(0)
	for _, x := range lost { // what lies between the losses
		if x.Bytes != x.To-x.From || x.From < at {
			t.Fatalf("losses %+v", lost)
		}
		got = append(got, sent[at:x.From]...)
		at = x.To
	}
	want := slices.Concat(sent[95_000:100_000], sent[118_456:])
	if got = append(got, sent[at:]...); !slices.Equal(got, want) {
		t.Errorf("of the losses %+v, %d bytes remain, want %d", lost, len(got), len(want))
	}
	s := r.row(c)
	if s.Dropped != uint64(sum()) || len(s.Losses) == 0 || s.Losses[len(s.Losses)-1].To != lost[len(lost)-1].To {
		t.Errorf("%+v after %+v", s, lost)
	}
}

// A subscriber that does not read holds up neither the daemon nor others, and is
// told how much it has missed.
func TestEvents_slowSubscriber(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	guest := r.boot(c)
	quick := r.listen()
	slow, err := net.Dial("unix", filepath.Join(r.runDir(), "daemon.sock"))
	r.check(err)
	defer slow.Close()
	fmt.Fprint(slow, "GET /v1/events HTTP/1.0\r\n\r\n")
	slow.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = slow.Read(make([]byte, 64<<10)) // it has subscribed
	r.check(err)
	last, seen := uint64(0), 0
	for range 2500 { // 5000 events
		r.dial(c.Path).Close()
		for range 2 {
			e := quick.next(channel.EventClient)
			if last != 0 && e.Seq != last+1 {
				t.Fatalf("event %d after %d", e.Seq, last)
			}
			last = e.Seq
			seen++
		}
	}
	r.expectBothWays(guest, r.dial(c.Path), "undisturbed")
	slow.SetDeadline(time.Now().Add(20 * time.Second))
	var text strings.Builder
	buf := make([]byte, 64<<10)
	for !strings.Contains(text.String(), `"missed":`) {
		n, err := slow.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			t.Fatalf("%d bytes and no word of what was missed: %v", text.Len(), err)
		}
	}
	events := strings.Count(text.String(), `"event":"client"`)
	var missed int
	_, rest, _ := strings.Cut(text.String(), `"missed":`)
	fmt.Sscan(rest, &missed)
	if missed == 0 || events+missed < seen {
		t.Errorf("%d events and %d missed, of %d", events, missed, seen)
	}
}

// Subscribers are bounded, and leave nothing behind.
func TestEvents_tooMany(t *testing.T) {
	r := newRig(t)
	d := r.daemon()
	var conns []net.Conn
	get := func() string {
		c, err := net.Dial("unix", filepath.Join(r.runDir(), "daemon.sock"))
		r.check(err)
		conns = append(conns, c)
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(c, "GET /v1/events HTTP/1.0\r\n\r\n")
		status := make([]byte, len("HTTP/1.0 200"))
		_, err = io.ReadFull(c, status)
		r.check(err)
		return string(status)
	}
	for range 64 {
		if got := get(); got != "HTTP/1.0 200" {
			t.Fatal(got)
		}
	}
	if got := get(); got != "HTTP/1.0 503" {
		t.Errorf("one too many: %s", got)
	}
	err := daemon.Subscribe(t.Context(), r.runDir(), func(channel.Event) error { return nil })
	if err == nil || !strings.Contains(err.Error(), http.StatusText(http.StatusServiceUnavailable)) {
		t.Errorf("Subscribe: %v", err)
	}
	for _, c := range conns {
		c.Close()
	}
	r.eventually("there is room again", func() bool { return get() == "HTTP/1.0 200" })
	d.stop() // does not wait for subscribers
}

// What the guest helper says is believed in its own two words, and only while it
// is there.
func TestEvents_guestSays(t *testing.T) {
	r := newRig(t)
	r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	r.boot(c)
	l := r.listen()
	node := c.Frontend + "/" + channel.GuestNode
	for _, step := range []struct {
		says string
		want channel.GuestState
	}{
		{"open", channel.GuestOpen},
		{"closed", channel.GuestClosed},
		{"\x1b[2J" + strings.Repeat("x", 3000), channel.GuestUnknown},
		{"open", channel.GuestOpen},
		{"", channel.GuestUnknown},
	} {
		r.check(r.store.Write(t.Context(), node, step.says))
		if e := l.next(channel.EventGuest); e.Guest != step.want {
			t.Fatalf("the guest says %.20q: %+v, want %s", step.says, e, step.want)
		}
	}
}

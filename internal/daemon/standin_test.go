package daemon_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/standin"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore"
)

// stock makes a console as libxl leaves it to a QEMU, and what libxl waits for.
func (r *rig) stock(spec channel.Spec) toolstack.Channel {
	r.t.Helper()
	c, err := r.tools.AttachStock(r.t.Context(), r.dom, spec)
	r.check(err)
	r.check(r.store.Write(r.t.Context(), r.modelHome(), ""))
	return c
}

func (r *rig) modelHome() string { return fmt.Sprintf("/local/domain/0/device-model/%v", r.dom.ID) }

// handOver asks as a device model does, and returns what the daemon says until it has
// decided.
func (r *rig) handOver() (conn *net.UnixConn, said string) {
	r.t.Helper()
	conn = r.dial(standin.Socket(r.runDir()))
	fmt.Fprintf(conn, "POST "+standin.Path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", r.dom.ID)
	for b := bufio.NewReader(conn); ; {
		line, err := b.ReadString('\n')
		said += line
		_, body, _ := strings.Cut(said, "\r\n\r\n")
		if word, _, _ := strings.Cut(strings.TrimSpace(line), " "); err != nil || body != "" && word != standin.TTY {
			return conn, said
		}
	}
}

// A device model hands its domain's consoles over, is told when clients can connect, and
// when the domain has ended.
func TestStandIn(t *testing.T) {
	r := newRig(t)
	s := r.stock(channel.Spec{Name: "socket", Connection: channel.Socket})
	p := r.stock(channel.Spec{Name: "terminal", Connection: channel.PTY})
	r.daemon()
	if exists(s.Path) {
		t.Fatal("nobody has asked for it to be served")
	}
	conn, said := r.handOver()
	tty, err := r.store.Read(t.Context(), p.Frontend+"/tty")
	r.check(err)
	if want := fmt.Sprintf("tty %d %s\nready\n", p.DevID, tty); !strings.HasSuffix(said, want) || tty == "" {
		t.Errorf("%q, want %q at the end", said, want)
	}
	r.dial(s.Path).Close()
	state, err := r.store.Read(t.Context(), r.modelHome()+"/state")
	if err != nil || state != "running" {
		t.Errorf("libxl is told %q, %v", state, err)
	}
	if by, err := r.store.Read(t.Context(), toolstack.StandIn("/local/domain/0", r.dom.ID)); by != toolstack.HandedOver {
		t.Errorf("everybody is told %q, %v", by, err)
	}
	// It is started again by hand: there is one that waits for the end.
	again, said := r.handOver()
	if !strings.HasSuffix(said, "ready\n") {
		t.Errorf("again: %q", said)
	}
	if rest, err := io.ReadAll(conn); len(rest) > 0 || err != nil {
		t.Errorf("the first one hears %q, %v", rest, err)
	}
	// The one that xl has lost comes later.
	late := r.stock(channel.Spec{Name: "late", Connection: channel.Socket})
	r.eventually("the late one is served", func() bool { return exists(late.Path) })
	r.check(r.host.DestroyDomain(r.dom.ID))
	if rest, err := io.ReadAll(again); string(rest) != "gone\n" || err != nil {
		t.Errorf("at the end of the domain it hears %q, %v", rest, err)
	}
}

// A domain gets a device that only QEMU serves when its device model is there already:
// that is to become a QEMU, and the consoles stay with the daemon.
func TestStandIn_late(t *testing.T) {
	r := newRig(t)
	s := r.stock(channel.Spec{Name: "a", Connection: channel.Socket})
	daemon := r.daemon()
	conn, said := r.handOver()
	if !strings.HasSuffix(said, "ready\n") {
		t.Fatalf("%q", said)
	}
	const why = "beside only QEMU serves its device vusb/0 (qusb)\n"
	backend := fmt.Sprintf("/local/domain/0/backend/qusb/%v/0", r.dom.ID)
	r.check(r.store.Tx(t.Context(), func(tx *xenstore.Tx) error {
		return errors.Join(tx.Write(t.Context(), backend+"/online", "1"),
			tx.Write(t.Context(), fmt.Sprintf("/libxl/%v/device/vusb/0/backend", r.dom.ID), backend))
	}))
	if rest, err := io.ReadAll(conn); string(rest) != why || err != nil {
		t.Errorf("it hears %q, %v", rest, err)
	}
	if _, said := r.handOver(); !strings.HasSuffix(said, why) {
		t.Errorf("asked again: %q", said)
	}
	if kind, err := r.store.Read(t.Context(), s.Frontend+"/type"); kind != toolstack.Type || err != nil {
		t.Errorf("QEMU sees a console of type %q, %v", kind, err)
	}
	r.dial(s.Path).Close()
	daemon.stop()
	r.daemon()
	r.dial(s.Path).Close()
}

// What the daemon cannot serve it leaves alone, and says why.
func TestStandIn_declines(t *testing.T) {
	for _, c := range []struct {
		name, path, want string
		set              func(r *rig, c toolstack.Channel)
	}{
		{name: "a disk", want: "qemu only QEMU serves its device vbd/51712 (qdisk)\n", set: func(r *rig, _ toolstack.Channel) {
			r.check(r.store.Write(r.t.Context(), fmt.Sprintf("/libxl/%v/device/vbd/51712/backend", r.dom.ID), "/local/domain/0/backend/qdisk/1/51712"))
		}},
		{name: "destroyed", want: "libxl waits for no device model of this domain\n", set: func(r *rig, _ toolstack.Channel) {
			r.check(r.store.Remove(r.t.Context(), r.modelHome()))
		}},
		{name: "taken", want: "there is a regular file", set: func(r *rig, c toolstack.Channel) {
			r.check(os.MkdirAll(filepath.Dir(c.Path), 0o755))
			r.check(os.WriteFile(c.Path, nil, 0o600))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			s := r.stock(channel.Spec{Name: "a", Connection: channel.Socket})
			c.set(r, s)
			r.daemon()
			_, said := r.handOver()
			if !strings.Contains(said, c.want) {
				t.Errorf("%q, want %q", said, c.want)
			}
			if state, err := r.store.Read(t.Context(), r.modelHome()+"/state"); err == nil {
				t.Errorf("libxl is told %q", state)
			}
		})
	}
}

package daemon_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/toolstack"
)

// spoolOf is the file with a channel's spool.
func (r *rig) spoolOf(c toolstack.Channel) string {
	return filepath.Join(r.runDir(), "daemon.spool", fmt.Sprintf("%d-%d", c.DomID, c.DevID))
}

// A daemon that is stopped leaves what no client has taken to the next.
func TestRestart_spoolAndCountsGoOn(t *testing.T) {
	r := newRig(t)
	s := r.daemon()
	c := r.attach(channel.Spec{Name: "a", Spool: 5000})
	front := r.boot(c)
	want := pattern(30_000)
	r.write(front, want[:9000])
	r.eventually("all is in the spool", func() bool { return r.row(c).GuestToHost == 9000 })
	s.stop()
	r.write(front, want[9000:11_000]) // fits the ring

	s = r.daemon()
	r.eventually("all is in the spool", func() bool { return r.row(c).GuestToHost == 11_000 })
	if row := r.row(c); row.Dropped != 6000 || row.Spooled != 5000 {
		t.Errorf("after a restart: %+v", row)
	}
	client := r.dial(c.Path)
	r.expect(client, want[6000:11_000])
	r.write(front, want[11_000:14_000])
	r.expect(client, want[11_000:14_000])
	r.eventually("an empty spool", func() bool { return r.row(c).Spooled == 0 })
	s.stop()

	r.daemon()
	if row := r.row(c); row.GuestToHost != 14_000 || row.Dropped != 6000 || row.Spooled != 0 {
		t.Errorf("after another restart: %+v", row)
	}
	r.write(front, want[14_000:15_000])
	r.expect(r.dial(c.Path), want[14_000:15_000]) // and nothing again
}

// What a channel has said is not for the one that takes its place while no
// daemon runs, though domain, number and name are the same.
func TestRestart_anotherChannelGetsNothing(t *testing.T) {
	r := newRig(t)
	s := r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	end := r.frontend(c)
	r.connected(c)
	r.write(<-end.conns, []byte("a secret of the first"))
	r.eventually("it is in the spool", func() bool { return r.row(c).Spooled > 0 })
	s.stop()
	end.stop()
	r.remove(c)

	c = r.attach(channel.Spec{Name: "a"})
	r.daemon()
	front := r.boot(c)
	if row := r.row(c); row.GuestToHost != 0 {
		t.Errorf("a new channel begins with %+v", row)
	}
	r.write(front, []byte("hello"))
	r.expect(r.dial(c.Path), []byte("hello"))
}

func TestRestart_spoolsOfNobodyGo(t *testing.T) {
	r := newRig(t)
	s := r.daemon()
	c := r.attach(channel.Spec{Name: "a"})
	r.boot(c)
	if !exists(r.spoolOf(c)) {
		t.Fatal("the spool is not where it is looked for")
	}
	s.stop()
	if !exists(r.spoolOf(c)) {
		t.Error("a daemon that stops has removed a spool")
	}
	old := filepath.Join(filepath.Dir(r.spoolOf(c)), "77-1") // of a domain that is gone
	r.check(os.WriteFile(old, bytes.Repeat([]byte{1}, 100), 0o600))
	r.daemon()
	if exists(old) || !exists(r.spoolOf(c)) {
		t.Error("the next daemon has not removed what is nobody's, or what is not")
	}
	r.check(r.tools.Detach(context.Background(), r.dom, "a"))
	r.eventually("a detached channel's spool is gone", func() bool { return !exists(r.spoolOf(c)) })
}

package reconcile

import (
	"bytes"
	"context"
	"io"
	"sync/atomic"
	"testing"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore"
)

// spied takes note of whether anything is asked about a domain's consoles.
type spied struct {
	io.ReadWriteCloser
	asked atomic.Bool
}

func (s *spied) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("/device/console")) {
		s.asked.Store(true)
	}
	return s.ReadWriteCloser.Write(b)
}

// With nothing declared, it does not look at domains that come. What domains leave
// behind is removed all the same, and a file that comes is seen.
func TestRun_nothingDeclared(t *testing.T) {
	r := newRig(t)
	before := r.create("before")
	stream, _, err := xenstore.OpenStream(t.Context(), r.host.StorePath())
	r.check(err)
	conn := &spied{ReadWriteCloser: stream}
	store := xenstore.New(conn)
	defer store.Close()
	rec := New(Config{Store: store, RunDir: r.tools.RunDir, Dir: r.drop})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- rec.Run(ctx) }()
	defer func() { cancel(); r.check(<-ended) }()
	r.apply(rec)
	if !conn.asked.Swap(false) {
		t.Error("it did not look at the domain that was there")
	}
	web := r.create("web")
	_, err = r.tools.Attach(t.Context(), before, channel.Spec{Name: "hand", Connection: channel.PTY})
	r.check(err)

	// The backend of a channel stays behind when its domain goes.
	stale := "/local/domain/0/backend/console/77/1"
	r.check(r.store.Write(t.Context(), stale+"/"+toolstack.Instance, "x"))
	r.check(r.host.DestroyDomain(r.create("short").ID))
	r.eventually(func() (bool, string) {
		there, err := r.store.Exists(t.Context(), stale)
		r.check(err)
		return !there, "the backend of a domain that is gone"
	})
	if conn.asked.Load() {
		t.Error("it has looked at domains, with nothing to give them")
	}

	r.file("a.toml", declare("web*", agent))
	rec.Reload()
	r.has(web, "agent:declared")
	r.has(r.create("web-2"), "agent:declared")
}

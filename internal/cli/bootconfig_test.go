package cli

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/bootconfig"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// With --keep a guest that is configured in time may be served for ever.
func TestConfigServe_keepEndsTheLimit(t *testing.T) {
	requirePrograms(t)
	var out bytes.Buffer
	a := &app{host: "sim:" + newHost(t, `name = "web"`), stdout: &out, stderr: &out}
	tools, err := a.toolstack(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tools.Store.Close()
	d, err := tools.Resolve(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []bootconfig.EventKind{bootconfig.EventGiven, bootconfig.EventConfigured} {
		s := &serving{app: a, keep: true, limit: time.NewTimer(time.Hour)}
		if err := s.event(t.Context(), tools, d, bootconfig.Event{Kind: kind, Text: bootconfig.Ready}); err != nil {
			t.Fatal(err)
		}
		if runs := s.limit.Stop(); runs != (kind == bootconfig.EventGiven) || s.over {
			t.Errorf("after %s the limit runs: %v; over: %v", kind, runs, s.over)
		}
	}
}

// A guest that reboots while it is waited for is another domain of its name, and none
// of its number.
func TestWait_reboot(t *testing.T) {
	requirePrograms(t)
	dir := newHost(t, `name = "web"`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	a := &app{host: "sim:" + dir}
	wait := func(domain string) (first, last xen.DomID, err error) {
		err = (&waiting{app: a, domain: domain}).until(ctx, func(_ context.Context, _ xenstore.Reader, d toolstack.Domain) (bool, error) {
			if first == 0 {
				first = d.ID
				xenchan(t, dir, "reboot", "web")
			}
			last = d.ID
			return d.ID != first, nil
		})
		return first, last, err
	}
	first, last, err := wait("web")
	if err != nil || first == last {
		t.Errorf("by its name: domain %v and then %v, %v", first, last, err)
	}
	if _, _, err := wait(last.String()); !errors.Is(err, toolstack.ErrNoDomain) {
		t.Errorf("by its number: %v", err)
	}
}

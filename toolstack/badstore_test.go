package toolstack_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xenchan/xenchan/toolstack"
)

// A xenstored that refuses every commit, or does not answer: commands end with an
// error that says so, and nothing is written.
func TestAttach_xenstoreIsUnwell(t *testing.T) {
	for name, c := range map[string]struct {
		between func(h *host, c net.Conn) net.Conn
		says    string
	}{
		"EAGAIN for ever": {func(h *host, c net.Conn) net.Conn {
			// What the commit depends on, the number of devices, changes each time.
			return beforeCommit{c, func() {
				h.check(h.store.Mkdir(context.Background(), "/libxl/5/device/console"))
				h.check(h.store.Remove(context.Background(), "/libxl/5/device"))
			}}
		}, "attach a to web (domain 5): xenstore has not done it within 30s"},
		"no answer": {func(_ *host, c net.Conn) net.Conn { return silent{c} }, "xenstore has not done it within 30s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t)
				defer h.close()
				defer h.unchanged()()
				tools := &toolstack.Toolstack{RunDir: "/run/xenchan", Store: h.connectVia(0, func(conn net.Conn) net.Conn { return c.between(h, conn) })}
				begin := time.Now()
				_, err := tools.Attach(t.Context(), web, socket("a"))
				if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("attach: %v", err)
				}
				if took := time.Since(begin); took < 30*time.Second || took > 31*time.Second {
					t.Errorf("it took %v", took)
				}
				if name == "no answer" {
					if _, err := tools.Resolve(t.Context(), "web"); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("resolve: %v", err)
					}
					if _, err := tools.Channels(t.Context(), web); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("list: %v", err)
					}
				}
			})
		})
	}
}

// silent is a connection whose requests get lost.
type silent struct{ net.Conn }

func (silent) Write(p []byte) (int, error) { return len(p), nil }

// A xenstored that goes away in the middle.
func TestAttach_xenstoreEnds(t *testing.T) {
	h := newHost(t)
	defer h.close()
	defer h.unchanged()()
	tools := &toolstack.Toolstack{RunDir: "/run/xenchan", Store: h.connectVia(0, func(c net.Conn) net.Conn {
		return beforeCommit{c, func() { c.Close() }}
	})}
	_, err := tools.Attach(t.Context(), web, socket("a"))
	if err == nil || !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "connection lost") {
		t.Errorf("%v", err)
	}
}

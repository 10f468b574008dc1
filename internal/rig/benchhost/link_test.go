//go:build xen

package benchhost

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/rig/xlguest"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen/xendev"
	"github.com/xenchan/xenchan/xenstore"
)

const runDir = "/run/xenchan"

// link is one console of a guest, from end to end.
type link struct {
	backend string
	host    io.ReadWriter
	process string // whose CPU time counts
	sum     string // of the data that the guest has to send
	// start runs a script in the guest, in the background, with the console's terminal
	// as standard input and output, raw. finish waits for its end.
	start  func(t *testing.T, script string)
	finish func(t *testing.T)
	// echo has the guest send back what comes, until stop.
	echo func(t *testing.T) (stop func())
}

// overTTY is a link whose guest end is a terminal that is not the guest's console.
func overTTY(t *testing.T, backend, process string, g *xlguest.Guest, tty string, host io.ReadWriter) *link {
	// Somebody holds the terminal, or it would lose its raw mode with the last close.
	g.Run(fmt.Sprintf(`
for i in $(seq 500); do (: <>%[1]s) 2>/dev/null && break; usleep 20000; done
( stty raw -echo; : >/tmp/held; exec sleep 1000000 ) <>%[1]s >&0 2>/dev/null &
for i in $(seq 500); do [ -e /tmp/held ] && break; usleep 20000; done; rm /tmp/held`, tty))
	start := func(t *testing.T, script string) {
		g.Run(fmt.Sprintf("rm -f /tmp/done; ( %s; : >/tmp/done ) <%[2]s >%[2]s 2>/dev/null & echo $! >/tmp/pid", script, tty))
	}
	return &link{
		backend: backend, host: host, process: process, sum: checksum(g.Run(makeData)),
		start: start,
		finish: func(t *testing.T) {
			g.Run("for i in $(seq 3000); do [ -e /tmp/done ] && exit 0; usleep 10000; done; exit 1")
		},
		echo: func(t *testing.T) (stop func()) {
			start(t, "exec cat -")
			return func() { g.Run("kill $(cat /tmp/pid)") }
		},
	}
}

// dial connects to a channel's socket as soon as somebody listens there.
func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", path)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			return c
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// stockLink is a guest whose channel xl has made. Xl of 4.17 loses the first of all
// channels, so there is another before it.
func stockLink(t *testing.T, backend, process, dm string) *link {
	socket := filepath.Join(t.TempDir(), "s")
	g := xlguest.Start(t, xlguest.Config{Name: backend, Extra: stockConfig(dm, socket)})
	return overTTY(t, backend, process, g, "/dev/hvc1", dial(t, socket))
}

func stockConfig(dm, socket string) string {
	c := fmt.Sprintf("channel = [ \"connection=pty,name=lost\", \"connection=socket,path=%s,name=bench\" ]\n", socket)
	if dm != "" {
		c += fmt.Sprintf("device_model_override = %q\n", dm)
	}
	return c
}

// deviceModel is where xl finds it.
func deviceModel(t *testing.T) string {
	path, err := exec.LookPath("xenchan-dm")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// startDaemon runs a daemon for the rest of the test.
func startDaemon(t *testing.T) {
	cmd := exec.Command("xenchan", "daemon")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	for end := time.Now().Add(20 * time.Second); !daemon.Listens(t.Context(), runDir); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the daemon does not come up")
		}
	}
}

// attach plugs a channel in and returns where its host end is.
func attach(t *testing.T, domain, spec string) string {
	t.Helper()
	out, err := exec.Command("xenchan", "attach", domain, spec, "--wait").Output()
	if err != nil {
		t.Fatalf("attach %s: %v", spec, err)
	}
	return strings.TrimSpace(string(out))
}

// ringLink is a channel whose backend is this process, and does nothing but move bytes.
// Its type is QEMU's, so that the daemon keeps away, and the guest has no QEMU.
func ringLink(t *testing.T, g *xlguest.Guest, tty string) *link {
	t.Helper()
	before := runtime.GOMAXPROCS(2) // as the daemon: one of them waits for events
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	hv, err := xendev.Open(xendev.Config{})
	if err != nil {
		t.Fatal(err)
	}
	store, err := xenstore.Open(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	tools := &toolstack.Toolstack{Store: store, RunDir: runDir}
	c, err := tools.AttachStock(t.Context(), toolstack.Domain{ID: g.DomID(), Name: g.Name()}, channel.Spec{Name: "ring", Connection: channel.PTY})
	if err != nil {
		t.Fatal(err)
	}
	end := &bare{taken: taken{more: make(chan struct{}, 1)}}
	conns := make(chan *console.Conn, 1)
	b := console.NewBackend(console.Backend{
		Store: store, Hypervisor: hv, Path: c.Backend, Frontend: c.Frontend, DomID: g.DomID(),
		Sink: &end.taken, Source: &end.given, Attached: func(c *console.Conn) { conns <- c },
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Run(ctx) }) // it ends with the test
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		hv.Close()
		store.Close()
	})
	select {
	case end.conn = <-conns:
		return overTTY(t, "ring", "", g, tty, end)
	case <-time.After(xlguest.Patience):
		t.Fatal("the guest does not connect the ring")
	}
	return nil
}

// await reads up to a text, byte by byte.
func await(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var b [1]byte
	for at := 0; at < len(text); {
		if _, err := r.Read(b[:]); err != nil {
			t.Fatal(err)
		}
		switch b[0] {
		case text[at]:
			at++
		case text[0]:
			at = 1
		default:
			at = 0
		}
	}
}

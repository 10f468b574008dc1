//go:build xen

package realhost

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/fdstore"
	"github.com/xenchan/xenchan/internal/rig/xlguest"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

const runDir = "/run/xenchan"

// host is a daemon in dom0, as a process of its own.
type host struct {
	t   *testing.T
	cmd *exec.Cmd
	log bytes.Buffer
	as  *syscall.Credential // nil: as root
	// manager keeps the descriptors of one daemon for the next; nil: nobody does.
	manager *fdstore.Manager
}

func startDaemon(t *testing.T) *host {
	t.Helper()
	if err := os.MkdirAll("/var/lock", 0o755); err != nil { // for xl console
		t.Fatal(err)
	}
	return (&host{t: t}).run()
}

// run starts the daemon and stops it with the test.
func (h *host) run() *host {
	h.t.Helper()
	t := h.t
	h.start()
	t.Cleanup(func() {
		h.stop(syscall.SIGTERM)
		if t.Failed() {
			xlguest.Dump(t, "the daemon's log", h.log.String())
		}
	})
	return h
}

func (h *host) start() {
	h.t.Helper()
	h.cmd = exec.Command("xenchan", "daemon", "--verbose")
	h.cmd.Stderr = &h.log
	if h.as != nil {
		h.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: h.as}
		h.cmd.Env = append(os.Environ(), "XENSTORED_PATH=/dev/xen/xenbus")
	}
	if h.manager != nil {
		started, err := h.manager.Equip(h.cmd)
		if err != nil {
			h.t.Fatal(err)
		}
		defer started()
	}
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
}

// ready waits until the daemon answers.
func (h *host) ready() {
	h.t.Helper()
	eventually(h.t, "the daemon answers", func() bool {
		_, err := daemon.Query(h.t.Context(), runDir)
		return err == nil
	})
}

// stop ends the daemon by a signal and returns its exit status, -1 after a kill.
func (h *host) stop(s syscall.Signal) int {
	if h.cmd == nil {
		return 0
	}
	h.cmd.Process.Signal(s)
	h.cmd.Wait()
	status := h.cmd.ProcessState.ExitCode()
	h.cmd = nil
	return status
}

// guest is one that several tests use, see xlguest.Shared. What a test plugs into
// it is unplugged at the end of the test, which must have started its daemon first.
func guest(t *testing.T, c xlguest.Config) *xlguest.Guest {
	t.Helper()
	g := xlguest.Shared(t, c)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), xlguest.Patience)
		defer cancel()
		if err := unplugAll(ctx, g.Name()); err != nil {
			t.Errorf("unplugging what the test has plugged in: %v", err)
		}
	})
	return g
}

func unplugAll(ctx context.Context, domain string) error {
	return withChannels(ctx, domain, func(tools *toolstack.Toolstack, c toolstack.Channel) error {
		return tools.Detach(ctx, toolstack.Domain{ID: xen.DomID(c.DomID), Name: domain}, c.Name)
	})
}

// withChannels does something with each channel of a domain.
func withChannels(ctx context.Context, domain string, do func(*toolstack.Toolstack, toolstack.Channel) error) error {
	store, err := xenstore.Open(ctx, "")
	if err != nil {
		return err
	}
	defer store.Close()
	tools := &toolstack.Toolstack{Store: store, RunDir: runDir}
	d, err := tools.Resolve(ctx, domain)
	if err != nil {
		return err
	}
	channels, err := tools.Channels(ctx, d)
	for _, c := range channels {
		err = errors.Join(err, do(tools, c))
	}
	return err
}

// xenchan runs a command and returns its standard output.
func xenchan(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryXenchan(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tryXenchan gives a command [xlguest.Patience], if ctx says nothing else.
func tryXenchan(ctx context.Context, args ...string) (string, error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, xlguest.Patience)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, "xenchan", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("xenchan %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), err
}

// list is `xenchan list -o json` of a domain, by channel name.
func list(t *testing.T, domain string) map[string]channel.Info {
	t.Helper()
	var rows []channel.Info
	if err := json.Unmarshal([]byte(xenchan(t, "list", domain, "-o", "json")), &rows); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]channel.Info)
	for _, r := range rows {
		all[r.Name] = r
	}
	return all
}

// look is list without a process, for what is asked again and again: one takes a fifth
// of a second of dom0's only processor.
func look(t *testing.T, domain string) map[string]channel.Info {
	t.Helper()
	all := make(map[string]channel.Info)
	served, _ := daemon.Query(t.Context(), runDir) // nobody may answer now
	err := withChannels(t.Context(), domain, func(_ *toolstack.Toolstack, c toolstack.Channel) error {
		for _, s := range served {
			if s.DomID == c.DomID && s.DevID == c.DevID {
				s.Fill(&c.Info)
			}
		}
		all[c.Name] = c.Info
		return nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // the whole machine stood still for long
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// connected waits until both ends of these channels are, and returns all of the domain's.
func connected(t *testing.T, domain string, names ...string) map[string]channel.Info {
	t.Helper()
	return await(t, domain, "connected", names, isConnected)
}

func isConnected(c channel.Info) bool {
	return c.State != nil && *c.State == 4 && c.FrontendState != nil && *c.FrontendState == 4
}

// await waits until all of a domain's channels of these names are as they should be,
// and returns all that it has.
func await(t *testing.T, domain, what string, names []string, is func(channel.Info) bool) (rows map[string]channel.Info) {
	t.Helper()
	eventually(t, fmt.Sprintf("the channels %v of %s are %s", names, domain, what), func() bool {
		rows = look(t, domain)
		return !slices.ContainsFunc(names, func(n string) bool { return !is(rows[n]) })
	})
	return rows
}

// attach plugs a channel in and returns where its host end is.
func attach(t *testing.T, domain, spec string) string {
	t.Helper()
	return strings.TrimSpace(xenchan(t, "attach", domain, spec, "--wait", "--timeout", "3m"))
}

// client opens a channel's host end. What it waits for in vain ends with an error.
func client(t *testing.T, path string) io.ReadWriteCloser {
	t.Helper()
	var c interface {
		io.ReadWriteCloser
		SetDeadline(time.Time) error
	}
	var err error
	if strings.HasPrefix(path, "/dev/") {
		c, err = os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	} else {
		c, err = net.Dial("unix", path)
	}
	if err == nil {
		err = c.SetDeadline(time.Now().Add(3 * xlguest.Patience)) // tests use one for long
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// echoing are functions of the guest's shell: hush TERMINAL ends the program that sends
// back what comes there, and answer TERMINAL starts one. Two would each take a part, and
// one whose terminal was hung up keeps a deaf terminal in the way of the next until it
// has ended.
const echoing = `
hush() {
	read -r old 2>/dev/null </tmp/echo-${1##*/} || return 0
	kill -9 $old 2>/dev/null
	while kill -0 $old 2>/dev/null; do usleep 10000; done
	rm /tmp/echo-${1##*/}
}
answer() {
	rm -f /tmp/up-${1##*/}
	( stty raw -echo; : >/tmp/up-${1##*/}; exec cat ) <>$1 >&0 2>/dev/null &
	echo $! >/tmp/echo-${1##*/}
}
`

// echoAgent runs a program in the guest that sends back what it reads, and
// waits for it to have the terminal.
func echoAgent(g *xlguest.Guest, tty string) {
	g.Run(echoing + "hush " + tty + xlguest.Until("(: <>"+tty+") 2>/dev/null") + "answer " + tty + xlguest.Until("[ -e /tmp/up-"+filepath.Base(tty)+" ]"))
}

// echo sends size random bytes and compares what comes back.
func echo(t *testing.T, c io.ReadWriter, size int) time.Duration {
	t.Helper()
	want, got := make([]byte, size), make([]byte, size)
	rand.Read(want)
	begin := time.Now()
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		sent <- err
	}()
	done := make(chan error, 1)
	go func() {
		n, err := io.ReadFull(c, got)
		if err != nil {
			err = fmt.Errorf("after %d of %d bytes: %w", n, size, err)
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err := errors.Join(err, <-sent); err != nil {
			t.Fatal(err)
		}
	case <-time.After(xlguest.Patience):
		t.Fatal("no echo")
	}
	if !bytes.Equal(got, want) {
		t.Fatal("other bytes came back than were sent")
	}
	return time.Since(begin)
}

// eventually waits until f says so, or fails the test after [xlguest.Patience]. It asks
// ever less often: f mostly runs a command, for which dom0 has one slow processor.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	pause := 20 * time.Millisecond
	for end := time.Now().Add(xlguest.Patience); !f(); time.Sleep(pause) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", xlguest.Patience, what)
		}
		pause = min(2*pause, 300*time.Millisecond)
	}
}

func xl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := xlguest.XL(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func xenstoreLS(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("xenstore-ls", "-fp").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// nodesGo waits until no line of xenstore has one of these texts.
func nodesGo(t *testing.T, texts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("no node with one of %q is left behind", texts), func() bool {
		all := xenstoreLS(t)
		return !slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(all, s) })
	})
}

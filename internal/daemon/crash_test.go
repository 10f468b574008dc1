package daemon_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/endpoint/pty"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/sim"
)

// crashHost is an embedded host with a guest in a process of its own, whose
// daemon, another process, the test kills and starts.
type crashHost struct {
	t      *testing.T
	dir    string
	binary string
	rnd    *rand.Rand
	cmd    *exec.Cmd
	stderr bytes.Buffer
}

const crashChannel = "org.example.crash.0"

func newCrashHost(t *testing.T, path string, spec channel.Spec) *crashHost {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	h := &crashHost{t: t, dir: t.TempDir(), binary: path, rnd: rand.New(rand.NewPCG(seed, 0))}
	spec.Name, spec.Connection = crashChannel, channel.Socket
	host, err := sim.Start(t.Context(), sim.Config{
		Dir: h.dir, Command: []string{path}, Stderr: t.Output(),
		Domains: []sim.Domain{{Name: "guest", Channels: []channel.Spec{spec}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if h.cmd != nil {
			h.end(syscall.SIGKILL)
		}
		if t.Failed() {
			t.Logf("the daemons said:\n%s", h.stderr.Bytes()[max(0, h.stderr.Len()-8000):])
		}
	})
	h.start()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := host.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *crashHost) start() {
	h.t.Helper()
	h.cmd = exec.Command(h.binary, "daemon", "--host", "sim:"+h.dir)
	h.cmd.Stderr = &h.stderr
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
}

func (h *crashHost) end(how syscall.Signal) {
	if err := h.cmd.Process.Signal(how); err != nil {
		h.t.Errorf("a daemon had ended of itself: %v", err)
	}
	_ = h.cmd.Wait()
	h.cmd = nil
}

// crash ends the daemon, once it has had some time, and starts the next.
func (h *crashHost) crash(how syscall.Signal) {
	time.Sleep(time.Duration(h.rnd.IntN(120)) * time.Millisecond)
	h.end(how)
	h.start()
}

// status waits for the channel's row to be as wanted.
func (h *crashHost) status(want string, ok func(daemon.Status) bool) daemon.Status {
	h.t.Helper()
	var last []daemon.Status
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if last, err = daemon.Query(h.t.Context(), sim.RunDir(h.dir)); err == nil && len(last) == 1 && ok(last[0]) {
			return last[0]
		}
	}
	h.t.Fatalf("not %s: %+v, %v", want, last, err)
	return daemon.Status{}
}

func (h *crashHost) socket() string {
	return filepath.Join(sim.RunDir(h.dir), "guest", crashChannel+".sock")
}

// stream is what a program in the guest writes: bytes that tell by themselves
// where in the stream they are.
type stream struct {
	stop chan struct{}
	done chan struct{}
	sent []byte // after done
	err  error  // after done
}

// speak writes in the guest until the end of the stream, a few MiB each second.
func (h *crashHost) speak() *stream {
	h.t.Helper()
	tty, err := os.OpenFile(filepath.Join(sim.GuestDir(h.dir, "guest"), crashChannel), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := pty.MakeRaw(tty); err != nil {
		h.t.Fatal(err)
	}
	s := &stream{stop: make(chan struct{}), done: make(chan struct{})}
	random := rand.NewChaCha8([32]byte{byte(h.rnd.Uint32())})
	go func() {
		defer close(s.done)
		defer tty.Close()
		for {
			select {
			case <-s.stop:
				return
			default:
			}
			p := make([]byte, 4096)
			random.Read(p)
			if _, s.err = tty.Write(p); s.err != nil {
				return
			}
			s.sent = append(s.sent, p...)
			time.Sleep(time.Millisecond)
		}
	}()
	return s
}

// end is all that was written.
func (s *stream) end(t *testing.T, atLeast int) []byte {
	t.Helper()
	close(s.stop)
	<-s.done
	if s.err != nil {
		t.Fatal(s.err)
	}
	if len(s.sent) < atLeast {
		t.Fatalf("only %d bytes were written, which proves little", len(s.sent))
	}
	return s.sent
}

const kills = 20

// What guests say survives daemons that are killed, as processes that are.
func TestCrash(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "xenchan")
	build := exec.Command("go", "build", "-o", binary, "github.com/xenchan/xenchan/cmd/xenchan")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for name, test := range map[string]func(*testing.T, string){
		"nobody reads":      testNobodyReads,
		"spool overflows":   testSpoolOverflows,
		"client comes back": testClientComesBack,
	} {
		t.Run(name, func(t *testing.T) { test(t, binary) })
	}
}

// Twenty daemons are killed while nobody reads. The next client gets every byte once.
func testNobodyReads(t *testing.T, binary string) {
	h := newCrashHost(t, binary, channel.Spec{Spool: 64 << 20})
	s := h.speak()
	for range kills {
		h.crash(syscall.SIGKILL)
	}
	h.crash(syscall.SIGTERM)
	want := s.end(t, 256<<10)
	st := h.status("all bytes in the spool", func(s daemon.Status) bool { return s.Spooled == uint64(len(want)) })
	if st.GuestToHost != uint64(len(want)) || st.Dropped != 0 {
		t.Errorf("of %d bytes the status counts %+v", len(want), st)
	}
	if got := h.read(len(want)); !bytes.Equal(got, want) {
		t.Errorf("the client has other bytes than the guest wrote")
	}
	h.status("an empty spool", func(s daemon.Status) bool { return s.Spooled == 0 })
}

// The same with a small spool: what is dropped is counted, over all daemons.
func testSpoolOverflows(t *testing.T, binary string) {
	const size = 100_000
	h := newCrashHost(t, binary, channel.Spec{Spool: size})
	s := h.speak()
	for range kills {
		h.crash(syscall.SIGKILL)
	}
	want := s.end(t, 256<<10)
	st := h.status("all bytes taken", func(s daemon.Status) bool { return s.GuestToHost == uint64(len(want)) })
	lost := int64(len(want) - size)
	if st.Spooled != size || st.Dropped != uint64(lost) || !slices.Equal(st.Losses, []channel.Loss{{Bytes: lost, From: 0, To: lost}}) {
		t.Errorf("of %d bytes the status counts %+v", len(want), st)
	}
	if got := h.read(size); !bytes.Equal(got, want[len(want)-size:]) {
		t.Errorf("the client has other bytes than the guest wrote last")
	}
}

// read is the first n bytes that a client gets.
func (h *crashHost) read(n int) []byte {
	h.t.Helper()
	c, err := net.Dial("unix", h.socket())
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	p := make([]byte, n)
	if _, err := io.ReadFull(c, p); err != nil {
		h.t.Fatalf("of %d bytes: %v", n, err)
	}
	return p
}

// Twenty daemons are killed while a client reads, and connects again each time.
// It gets every byte, in order; from each daemon some of the last one's again, but
// no more than one write.
func testClientComesBack(t *testing.T, binary string) {
	const oneWrite = 32 << 10
	h := newCrashHost(t, binary, channel.Spec{Spool: 64 << 20})
	reader := h.readAll()
	s := h.speak()
	for range kills {
		h.crash(syscall.SIGKILL)
	}
	want := s.end(t, 256<<10)
	h.status("all bytes delivered", func(s daemon.Status) bool {
		return s.GuestToHost == uint64(len(want)) && s.Spooled == 0
	})
	connections := reader()
	at, again := 0, 0
	for i, got := range connections {
		if len(got) == 0 {
			continue
		}
		from := max(0, at-oneWrite)
		back := -1
		for k := min(at, len(want)); k >= from; k-- { // the latest place where it fits
			if bytes.HasPrefix(want[k:], got) {
				back = k
				break
			}
		}
		if back < 0 {
			t.Fatalf("connection %d begins with bytes that do not follow on the first %d", i, at)
		}
		again += at - back
		at = max(at, back+len(got))
	}
	if at != len(want) {
		t.Errorf("the clients have %d of %d bytes", at, len(want))
	}
	t.Logf("%d bytes over %d connections, %d of them twice", len(want), len(connections), again)
}

// readAll is a client that connects whenever it can. The result stops it, and
// gives what each connection has read.
func (h *crashHost) readAll() func() [][]byte {
	stop, done := make(chan struct{}), make(chan struct{})
	var all [][]byte
	var mu sync.Mutex
	var conn net.Conn
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			c, err := net.Dial("unix", h.socket())
			if err != nil {
				time.Sleep(2 * time.Millisecond)
				continue
			}
			mu.Lock()
			conn = c
			mu.Unlock()
			got, _ := io.ReadAll(c) // until the daemon dies
			c.Close()
			all = append(all, got)
		}
	}()
	return func() [][]byte {
		close(stop)
		mu.Lock()
		if conn != nil { // what was delivered may still be in the socket
			conn.SetReadDeadline(time.Now().Add(time.Second))
		}
		mu.Unlock()
		<-done
		return all
	}
}

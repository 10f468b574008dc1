package standin

import (
	"bufio"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// stage is a daemon that a test plays, and a device model in front of it.
type stage struct {
	*testing.T
	listener         net.Listener
	dir, qmp         string
	became, restores chan []string
	ended            chan int
}

var errBecame = errors.New("became the other")

// begin starts a device model of a domain with two channels, the first of which is lost.
func begin(t *testing.T, daemon bool, more ...string) *stage {
	dir := t.TempDir()
	s := &stage{T: t, dir: dir, qmp: filepath.Join(dir, "qmp"), became: make(chan []string, 1), restores: make(chan []string, 9), ended: make(chan int, 1)}
	if daemon {
		s.listen()
	}
	p := Program{
		Self: "/bin/xenchan-dm", Host: "/bin/xenchan", RunDir: dir, Env: []string{"A=b"},
		Exec: func(path string, argv, env []string) error {
			s.became <- slices.Concat([]string{path}, argv, env)
			return errBecame
		},
		Start: func(path string, argv, _ []string) error {
			s.restores <- append([]string{path}, argv...)
			return nil
		},
	}
	args := strings.Fields("xenchan-dm -xen-domid 7 -chardev socket,id=libxl-cmd,path=" + s.qmp + ",server=on,wait=off -mon chardev=libxl-cmd,mode=control " +
		"-chardev socket,id=libxenstat-cmd,path=" + s.qmp + "-stat,server=on,wait=off -mon chardev=libxenstat-cmd,mode=control " +
		"-chardev pty,id=libxl-channel0 -chardev pty,id=libxl-channel1 -machine xenpv")
	go func() { s.ended <- p.Main(append(args, more...)) }()
	return s
}

func (s *stage) listen() {
	s.Helper()
	l, err := net.Listen("unix", Socket(s.dir))
	if err != nil {
		s.Fatal(err)
	}
	s.listener = l
	s.Cleanup(func() { l.Close() })
}

// asked waits until the device model asks the daemon, and answers.
func (s *stage) asked(answer string) net.Conn {
	s.Helper()
	if err := s.listener.(*net.UnixListener).SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.Fatal(err)
	}
	c, err := s.listener.Accept()
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { c.Close() })
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "POST /v1/device-models/7 HTTP/1.1\r\n" {
		s.Fatalf("asked %q, %v", line, err)
	}
	// Libxl connects as soon as it is told, which may be before the answer is here.
	if _, err := os.Stat(s.qmp); err != nil {
		s.Error(err)
	}
	for _, piece := range []string{answer[:len(answer)/2], answer[len(answer)/2:]} {
		if _, err := c.Write([]byte(piece)); err != nil {
			s.Fatal(err)
		}
	}
	return c
}

func receive[T any](s *stage, what string, from <-chan T) (got T) {
	s.Helper()
	select {
	case got = <-from:
	case <-time.After(20 * time.Second):
		s.Fatalf("%s: nothing", what)
	}
	return got
}

const ready = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ntty 1 /dev/pts/3\nready\n"

// The daemon serves the consoles: libxl is answered, the lost channel is seen to once,
// the next daemon is asked too, and the domain's end is its end.
func TestProgram(t *testing.T) {
	s := begin(t, true)
	daemon := s.asked(ready)
	for _, monitor := range []string{s.qmp, s.qmp + "-stat", s.qmp} { // libxl comes again for each command
		c, err := net.Dial("unix", monitor)
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		c.Write([]byte(`{"execute":"qmp_capabilities"}{"execute":"query-chardev"}`))
		var said string
		for range 3 {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			said += line
		}
		if !strings.Contains(said, `{"label":"libxl-channel1","filename":"pty:/dev/pts/3"`) {
			t.Error(said)
		}
		c.Close()
	}
	if got := receive(s, "the lost channel", s.restores); !slices.Equal(got[:4], []string{"/bin/xenchan", "xenchan-dm", RestoreLost, "-xen-domid"}) {
		t.Errorf("%q", got)
	}
	s.listener.Close()
	daemon.Close()
	s.listen()
	daemon = s.asked(ready)
	daemon.Write([]byte(Gone + "\n"))
	if status := receive(s, "the end", s.ended); status != 0 || len(s.restores) > 0 {
		t.Errorf("status %d, %d more restores", status, len(s.restores))
	}
	if _, err := os.Stat(s.qmp); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the QMP socket stays: %v", err)
	}
}

// What it is too small for is the host's program's.
func TestProgram_becomes(t *testing.T) {
	for _, c := range []struct{ name, answer, more string }{
		{name: "no daemon"},
		{"cannot", "HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\nalone may not do it\n", ""},
		{"QEMU", "HTTP/1.1 200 OK\r\n\r\nqemu for a disk\n", ""},
		{"older daemon", "HTTP/1.1 404 Not Found\r\n\r\n404 page not found\n", ""},
		{"HVM", "", "-machine pc"},
		{"nonsense", "", "-mon chardev=nowhere"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := begin(t, c.answer != "", strings.Fields(c.more)...)
			if c.answer != "" {
				s.asked(c.answer)
			}
			got := receive(s, "the other program", s.became)
			if got[0] != "/bin/xenchan" || got[1] != "xenchan-dm" || !slices.Contains(got, "A=b") || !slices.Contains(got, "XENCHAN_DM=/bin/xenchan-dm") {
				t.Errorf("%q", got)
			}
			if status := receive(s, "the end", s.ended); status != 1 { // of an exec that fails
				t.Errorf("status %d", status)
			}
			// The other one, or a QEMU, makes its own.
			if _, err := os.Stat(s.qmp); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the QMP socket stays: %v", err)
			}
		})
	}
}

// A domain may get a device for which it needs a QEMU, when it runs.
func TestProgram_becomesLater(t *testing.T) {
	s := begin(t, true)
	daemon := s.asked(ready)
	c, err := net.Dial("unix", s.qmp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil { // it talks: it knows that the daemon is ready
		t.Fatal(err)
	}
	daemon.Write([]byte(Beside + " for a disk\n"))
	if got := receive(s, "the other program", s.became); got[0] != "/bin/xenchan" || got[1] != "xenchan-dm" {
		t.Errorf("%q", got)
	}
	if status := receive(s, "the end", s.ended); status != 1 { // of an exec that fails
		t.Errorf("status %d", status)
	}
	if _, err := os.Stat(s.qmp); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the QMP socket stays: %v", err)
	}
}

// A daemon that fails is not taken for one that serves.
func TestProgram_daemonFails(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 500 Internal Server Error\r\n\r\nconsole 1: no room\n",
		"nonsense\r\n\r\n", strings.Repeat("x", maxAnswer+1),
	} {
		s := begin(t, true)
		s.asked(answer)
		if status := receive(s, "the end", s.ended); status != 1 || len(s.became) > 0 {
			t.Errorf("%.20q: status %d, became %d", answer, status, len(s.became))
		}
	}
}

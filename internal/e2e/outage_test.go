package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore"
)

// process is a xenchan of its own.
type process struct {
	*exec.Cmd
	t     *testing.T
	said  buffer
	ended chan struct{}
}

// begin starts a xenchan, and waits for a line on stdout if there is to be one.
func begin(t *testing.T, line string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(xenchan(t), args...), t: t, ended: make(chan struct{})}
	p.Stderr = &p.said
	out, err := p.StdoutPipe()
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for line != "" && lines.Scan() && lines.Text() != line {
	}
	go func() {
		defer close(p.ended)
		p.Wait()
	}()
	t.Cleanup(func() {
		p.Process.Signal(syscall.SIGCONT)
		p.Process.Signal(syscall.SIGTERM)
		p.end()
		if t.Failed() {
			t.Logf("%v said:\n%s", args, p.said.tail())
		}
	})
	return p
}

// end waits for the process's end and returns its exit status.
func (p *process) end() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		p.Process.Kill()
		<-p.ended
		p.t.Errorf("%v does not end", p.Args)
	}
	return p.ProcessState.ExitCode()
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// busy is how much processor time the process has used.
func (p *process) busy() time.Duration {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	var ticks int64
	for _, field := range strings.Fields(rest)[11:13] { // utime and stime (proc_pid_stat(5))
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			p.t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// outage is an embedded host and a daemon, each a process of its own.
type outage struct {
	*host
	sim, daemon *process
	c           toolstack.Channel
}

func newOutage(t *testing.T) *outage {
	t.Helper()
	o := &outage{host: &host{t: t, dir: t.TempDir()}}
	o.boot()
	o.serve()
	return o
}

// boot starts the host, with one guest.
func (o *outage) boot() {
	o.t.Helper()
	cfg := filepath.Join(o.dir, "web.cfg")
	o.check(os.WriteFile(cfg, []byte("name = \"web\"\nchannel = [ \"connection=socket,name=a\" ]\n"), 0o644))
	o.sim = begin(o.t, "ready", "sim", o.dir, cfg, "--no-daemon")
	var err error
	o.store, err = xenstore.Open(o.t.Context(), filepath.Join(o.dir, "xenstored.sock"))
	o.check(err)
	o.t.Cleanup(func() { o.store.Close() })
	o.tools = &toolstack.Toolstack{Store: o.store, RunDir: sim.RunDir(o.dir)}
	o.c = o.channel("web", "a")
}

func (o *outage) serve() {
	o.t.Helper()
	o.daemon = begin(o.t, "", "daemon", "--host", "sim:"+o.dir)
	o.row(o.c)
}

// talk says something in both directions.
func (o *outage) talk(guest *os.File, client net.Conn) {
	o.t.Helper()
	o.say(client, guest, "to the guest")
	o.say(guest, client, "to the host")
}

// The hypervisor and xenstored die: the daemon says so and ends, and serves the host
// that comes after.
func TestOutage_killed(t *testing.T) {
	o := newOutage(t)
	o.talk(o.inGuest("web", "a"), o.onHost(o.c))
	o.sim.signal(syscall.SIGKILL)
	if status := o.daemon.end(); status != 1 {
		t.Errorf("exit status %d", status)
	}
	if said := string(o.daemon.said.tail()); !strings.Contains(said, "xenchan: ") || !strings.Contains(said, "xenstore: ") || !strings.Contains(said, "connection lost") {
		t.Errorf("it said %q", said)
	}
	o.sim.end()
	again := begin(t, "", "daemon", "--host", "sim:"+o.dir)
	if status, said := again.end(), string(again.said.tail()); status != 1 || !strings.Contains(said, "no embedded host") && !strings.Contains(said, "refused") {
		t.Errorf("without a host: exit status %d, %q", status, said)
	}
	o.boot()
	o.serve()
	o.talk(o.inGuest("web", "a"), o.onHost(o.c))
}

// The hypervisor and xenstored stand still: channels go on, the daemon waits without
// being busy, goes on when they do, and can be stopped meanwhile.
func TestOutage_frozen(t *testing.T) {
	o := newOutage(t)
	guest, client := o.inGuest("web", "a"), o.onHost(o.c)
	o.talk(guest, client)
	o.sim.signal(syscall.SIGSTOP)
	o.talk(guest, client)
	before := o.daemon.busy()
	time.Sleep(time.Second)
	if used := o.daemon.busy() - before; used > 300*time.Millisecond {
		t.Errorf("it was busy for %v of a second", used)
	}
	o.talk(guest, client)
	o.sim.signal(syscall.SIGCONT)
	o.xenchan("attach", "web", "connection=socket,name=later", "--wait")
	o.talk(o.inGuest("web", "later"), o.onHost(o.channel("web", "later")))

	o.sim.signal(syscall.SIGSTOP)
	o.daemon.signal(syscall.SIGTERM)
	if status := o.daemon.end(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	o.sim.signal(syscall.SIGCONT)
	o.serve()
	o.talk(guest, o.onHost(o.c))
}

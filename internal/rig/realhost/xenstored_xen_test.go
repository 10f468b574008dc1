//go:build xen

package realhost

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// While xenstored stands still a channel goes on, with another client too, and the daemon
// is not busy; then channels come again. (That xenstored ends, after which this machine is
// of no use, is in internal/e2e.)
func TestXenstored_standsStill(t *testing.T) {
	h := startDaemon(t)
	h.ready()
	g := guest(t, xlguest.Config{})
	path := attach(t, g.Name(), "connection=socket,name=org.example.a.0")
	echoAgent(g, "/dev/hvc1")
	c := client(t, path)
	echo(t, c, 4096)

	text, err := os.ReadFile("/run/xenstored.pid")
	if err != nil {
		t.Fatal(err)
	}
	xenstored, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	signal := func(s syscall.Signal) {
		if err := syscall.Kill(xenstored, s); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { signal(syscall.SIGCONT) })
	signal(syscall.SIGSTOP)
	echo(t, c, 16<<10)
	c.Close()
	c = client(t, path)
	echo(t, c, 4096)
	const look = 5 * time.Second
	before := ticks(t, h.cmd.Process.Pid)
	time.Sleep(look)
	if used := ticks(t, h.cmd.Process.Pid) - before; used > look/2 {
		t.Errorf("in %v without xenstored the daemon was busy for %v", look, used)
	}
	signal(syscall.SIGCONT)
	attach(t, g.Name(), "connection=socket,name=org.example.b.0")
	echo(t, c, 4096)
}

// ticks is the processor time that a process has used (proc_pid_stat(5)).
func ticks(t *testing.T, pid int) (used time.Duration) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	for _, field := range strings.Fields(rest)[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		used += time.Duration(n) * 10 * time.Millisecond
	}
	return used
}

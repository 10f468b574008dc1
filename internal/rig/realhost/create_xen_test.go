//go:build xen

package realhost

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
)

// twoChannels are there from the boot, and made with +=, for which xl's way to
// leave channels out has to be right too.
const twoChannels = `channel = [ "connection=socket,name=org.example.a.0" ]
channel += [ "connection=pty,name=org.example.b.0" ]`

// A domain boots with its channels, in order and without a QEMU, and when it is
// destroyed nothing is left.
func TestCreate(t *testing.T) {
	startDaemon(t).ready()
	before := xenstoreLS(t)
	file := xlguest.WriteConfig(t, xlguest.Config{Name: "made", Extra: twoChannels})
	xenchan(t, "create", file)
	g := xlguest.Adopt(t, "made")
	g.Wait("GUEST UP")
	rows := connected(t, "made", "org.example.a.0", "org.example.b.0")
	a, b := rows["org.example.a.0"], rows["org.example.b.0"]
	if a.DevID != 1 || b.DevID != 2 || len(rows) != 2 {
		t.Errorf("%+v", rows)
	}
	if n := qemus(t); n > 0 {
		t.Errorf("%d QEMU processes run", n)
	}
	compareWithXL(t, g)
	socket, tty := client(t, a.Path), client(t, b.TTY)
	echoAgent(g, "/dev/hvc1")
	echo(t, socket, 64<<10)
	echoAgent(g, "/dev/hvc2")
	echo(t, tty, 64<<10)

	// Its name is taken once, and it does not notice.
	if _, err := tryXenchan(t.Context(), "create", file); exitStatus(err) != 1 || !strings.Contains(err.Error(), `Domain with name "made" already exists`) {
		t.Errorf("the same name again: %v", err)
	}
	echo(t, socket, 4096)
	xenchan(t, "destroy", "made")
	nothingLeft(t, "made", before)
}

// qemus counts the processes of the device model.
func qemus(t *testing.T) int {
	t.Helper()
	programs, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range programs {
		// Whatever it is called by: xenchan may stand in its place.
		if exe, err := os.Readlink(p); err == nil && strings.Contains(exe, "qemu-system") {
			n++
		}
	}
	return n
}

func exitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// nothingLeft waits until a domain is gone, and all from xenstore that was not there before.
func nothingLeft(t *testing.T, domain, before string) {
	t.Helper()
	eventually(t, "no zombie of "+domain, func() bool { return gone(t, domain) })
	old := strings.Split(before, "\n")
	var left []string
	t.Cleanup(func() {
		if len(left) > 0 {
			t.Logf("left behind:\n%s", strings.Join(left, "\n"))
		}
	})
	eventually(t, "nothing is left behind", func() bool {
		left = slices.DeleteFunc(strings.Split(xenstoreLS(t), "\n"), func(line string) bool {
			// libxl leaves empty directories of its own.
			return slices.Contains(old, line) || strings.HasPrefix(line, "/libxl ") || strings.HasPrefix(line, "/vm ") || strings.HasPrefix(line, "/local/domain/0/backend ")
		})
		return len(left) == 0
	})
}

// Whatever fails, nothing half-made is left.
func TestCreate_fails(t *testing.T) {
	startDaemon(t).ready()
	file := xlguest.WriteConfig(t, xlguest.Config{Name: "half", Extra: twoChannels})
	before := xenstoreLS(t)
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{`kernel="/nosuch"`}, 1, "failed to open file '/nosuch'"},
		{[]string{`name=""`}, 2, "name"},
		{[]string{`channel+=["connection=pty,name=c,backend=nosuch"]`}, 3, `attach c to half (domain `},
		{[]string{`channel+=["connection=socket,name=c,path=/nosuch/c.sock"]`}, 1, "there is no directory /nosuch"},
	} {
		_, err := tryXenchan(t.Context(), append([]string{"create", file}, c.args...)...)
		if exitStatus(err) != c.status || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.args, err)
		}
		nothingLeft(t, "half", before)
	}

	// Interrupted as soon as the domain is there.
	cmd := exec.Command("xenchan", "create", file)
	start(t, cmd)
	awaitDomain(t, "half")
	cmd.Process.Signal(syscall.SIGINT)
	if err := cmd.Wait(); exitStatus(err) != 1 {
		t.Errorf("interrupted: %v", err)
	}
	nothingLeft(t, "half", before)

	// xl is killed while it builds the domain.
	cmd = exec.Command("xenchan", "create", file)
	start(t, cmd)
	awaitDomain(t, "half")
	killXL(t)
	if err := cmd.Wait(); exitStatus(err) != 1 {
		t.Errorf("xl was killed: %v", err)
	}
	nothingLeft(t, "half", before)

	// Two at once: one of them makes it, all of it.
	results := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := tryXenchan(context.Background(), "create", file, "--paused")
			results <- err
		}()
	}
	if a, b := exitStatus(<-results), exitStatus(<-results); a+b != 1 {
		t.Errorf("two at once ended with %d and %d", a, b)
	}
	if rows := list(t, "half"); len(rows) != 2 {
		t.Errorf("%+v", rows)
	}
	xenchan(t, "destroy", "half")
	nothingLeft(t, "half", before)

	os.Rename("/usr/bin/xl", "/usr/bin/xl.away")
	defer os.Rename("/usr/bin/xl.away", "/usr/bin/xl")
	if _, err := tryXenchan(t.Context(), "create", file); exitStatus(err) != 1 || !strings.Contains(err.Error(), "there is no xl in PATH") {
		t.Errorf("without xl: %v", err)
	}
}

// unpause tries the hypercall, which lets a domain run that xl has made paused, and only
// one that is there.
func unpause(t *testing.T, name string) {
	t.Helper()
	dom, err := xen.ParseDomID(strings.TrimSpace(xl(t, "domid", name)))
	if err != nil {
		t.Fatal(err)
	}
	if out := xl(t, "list", name); !strings.Contains(out, " --p--- ") {
		t.Fatalf("it is not paused:\n%s", out)
	}
	if err := sys.UnpauseDomain(uint16(dom)); err != nil {
		t.Fatal(err)
	}
	if out := xl(t, "list", name); strings.Contains(out, " --p--- ") {
		t.Errorf("it is still paused:\n%s", out)
	}
	if err := sys.UnpauseDomain(30000); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a domain that is not there: %v", err)
	}
}

func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// awaitDomain waits until xenstore has a domain's name, which is early in its making.
func awaitDomain(t *testing.T, name string) {
	t.Helper()
	for end := time.Now().Add(xlguest.Patience); time.Now().Before(end); {
		if out, _ := exec.Command("xenstore-ls", "/local/domain").Output(); strings.Contains(string(out), `name = "`+name+`"`) {
			return
		}
	}
	t.Fatalf("no domain %s", name)
}

// killXL kills the xl that makes a domain.
func killXL(t *testing.T) {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if line, _ := os.ReadFile(f); strings.Contains(string(line), "xl\x00create\x00-p") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no xl was found")
}

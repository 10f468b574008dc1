package storeserver

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// debian runs Debian's C clients, which use libxenstore, against the server.
type debian struct {
	t      *testing.T
	socket string
}

func newDebian(t *testing.T) debian {
	t.Helper()
	for _, tool := range []string{"ls", "read", "write", "list", "rm", "chmod", "exists", "watch"} {
		if _, err := exec.LookPath("xenstore-" + tool); err != nil {
			t.Fatalf("%v; install it with: apt-get install xenstore-utils", err)
		}
	}
	_, socket := newServer(t)
	return debian{t, socket}
}

func (d debian) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.t.Context(), "xenstore-"+args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "XENSTORED_PATH="+d.socket)
	return cmd
}

// run checks what a command prints and whether it succeeds.
func (d debian) run(want string, fine bool, args ...string) {
	d.t.Helper()
	var out, stderr bytes.Buffer
	cmd := d.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if out.String() != want || (err == nil) != fine {
		d.t.Errorf("xenstore-%s: %v, output %q, want %q; %s", strings.Join(args, " "), err, out.String(), want, stderr.String())
	}
}

func TestDebian_tools(t *testing.T) {
	d := newDebian(t)
	d.run("", true, "write", "/t/b", "two words", "/t/a", "1", "/t/a/x", "deep")
	d.run("two words\n", true, "read", "/t/b")
	d.run("/t/a: 1\n/t/a/x: deep\n", true, "read", "-p", "/t/a", "/t/a/x")
	d.run("b\na\n", true, "list", "/t")
	d.run("", false, "read", "/t/none")
	d.run("", true, "exists", "/t/a")
	d.run("", false, "exists", "/t/none")
	d.run("", true, "chmod", "/t/b", "r1", "b2")
	d.run("", true, "chmod", "-r", "/t/a", "n3", "r4")
	d.run(`/t/b = "two words"   (r1,b2)
/t/a = "1"   (n3,r4)
/t/a/x = "deep"   (n3,r4)
`, true, "ls", "-fp", "/t")
	d.run("/tool = \"\"\n/tool/xenstored = \"\"\n/t = \"\"\n/t/b = \"two words\"\n/t/a = \"1\"\n/t/a/x = \"deep\"\n", true, "ls", "-f")
	d.run("", true, "rm", "/t/a")
	d.run("b = \"two words\"\n", true, "ls", "/t")
	d.run("", true, "write", "rel", "ative")
	d.run("ative\n", true, "read", "/local/domain/0/rel")
	d.run("", false, "write", "/t/bad.name", "x")
}

func TestDebian_largeDirectory(t *testing.T) {
	d := newDebian(t)
	var want strings.Builder
	args := []string{"write"}
	for i := range 1000 {
		name := fmt.Sprintf("a-rather-long-name-%d", i)
		fmt.Fprintln(&want, name)
		args = append(args, "/t/"+name, "")
	}
	d.run("", true, args...)
	d.run(want.String(), true, "list", "/t") // libxenstore asks for it in parts
}

func TestDebian_watch(t *testing.T) {
	d := newDebian(t)
	cmd := d.command("watch", "-n", "4", "/t", "rel")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timeout := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
	defer timeout.Stop()
	lines := bufio.NewScanner(out)
	next := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("xenstore-watch printed %q, want %q", lines.Text(), want)
		}
	}
	next("/t")
	next("rel")
	d.run("", true, "write", "/t/a", "1")
	next("/t/a")
	d.run("", true, "rm", "/t")
	next("/t")
	if err := cmd.Wait(); err != nil {
		t.Errorf("xenstore-watch: %v", err)
	}
}

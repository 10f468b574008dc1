package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

// Beyond testscript's own commands, scripts have
//
//	host [FLAG…] CFG…    an embedded host in $H, up to "ready"
//	halt [SIGNAL]        ends it and checks that no process of it is left
//	agent TTY            an agent in a guest that sends back what it gets
//	exits N PROGRAM …    the program's exit status is N; stdout and stderr can
//	                     be looked at as after exec
//	snapshot, unchanged  xenstore and the files below $H and $WORK, as one dump
//
// Each script has a directory $H for a host, with a short path as sockets need
// it, and XENCHAN_HOST and XENSTORED_PATH that name it. $HOSTILE is a value that
// would take over a terminal, $BLOCKED what a real agent must not do here.
func TestScripts(t *testing.T) {
	requirePrograms(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("XENCHAN_UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			dir, err := os.MkdirTemp("/tmp", "xc")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			h := filepath.Join(dir, "h")
			env.Setenv("H", h)
			env.Setenv("GORACE", os.Getenv("GORACE"))
			env.Setenv("XENCHAN_HOST", "sim:"+h)
			env.Setenv("XENSTORED_PATH", filepath.Join(h, "xenstored.sock"))
			env.Setenv("HOSTILE", hostile)
			env.Setenv("BLOCKED", blocked)
			env.Setenv("ESC", "\x1b")
			env.Setenv("LONG", strings.Repeat("x", 129))
			env.Setenv("LONG100", strings.Repeat("x", 100))
			env.Setenv("EXAMPLES", repoPath("examples"))
			env.Values[stateKey{}] = &scriptState{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"host":      cmdHost,
			"halt":      cmdHalt,
			"agent":     cmdAgent,
			"exits":     cmdExits,
			"snapshot":  cmdSnapshot,
			"unchanged": cmdUnchanged,
		},
	})
}

// hostile clears the screen, retitles the window, forges a line, reverses text.
const hostile = "a\x1b[2J\x1b]0;x\x07\r\nroot\t\u009b1m\u202e\xff\x7f"

type stateKey struct{}

type scriptState struct {
	host *exec.Cmd
	dump string
}

func state(ts *testscript.TestScript) *scriptState { return ts.Value(stateKey{}).(*scriptState) }

func repoPath(name string) string {
	wd, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return filepath.Join(wd, "../..", name)
}

// requirePrograms fails where the real programs are missing: a test without them
// would show nothing.
func requirePrograms(t testing.TB) {
	t.Helper()
	var missing []string
	for program, pkg := range map[string]string{
		"xenstore-ls": "xenstore-utils", "xenstore-write": "xenstore-utils",
		"socat": "socat", "curl": "curl", "qemu-ga": "qemu-guest-agent",
		"spice-vdagentd": "spice-vdagent", "Xvfb": "xvfb", "xclip": "xclip", "x11vnc": "x11vnc",
	} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		t.Fatalf("programs are missing: apt-get install %s", strings.Join(slices.Compact(missing), " "))
	}
}

// startHost runs xenchan sim until it is ready; it does not stop it.
func startHost(dir string, env []string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command("xenchan", append([]string{"sim", dir}, args...)...)
	cmd.Env = env
	var log bytes.Buffer
	cmd.Stderr = &log
	cmd.WaitDelay = time.Minute
	// Of its own group, so that the test can interrupt it as a terminal does.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ready := make([]byte, len("ready\n"))
	begin := time.Now()
	if n, err := io.ReadFull(out, ready); err != nil || string(ready) != "ready\n" {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		return nil, fmt.Errorf("the host in %s is not ready: %q, %v\n%s", dir, ready[:n], err, log.Bytes())
	}
	if took := time.Since(begin); took > 20*time.Second {
		return cmd, fmt.Errorf("the host needed %v", took)
	}
	return cmd, nil
}

// stopHost sends a signal to the host's process group, as ^C does, and reports
// processes that are left.
func stopHost(cmd *exec.Cmd, dir string, signal syscall.Signal) error {
	var err error
	if signal == syscall.SIGKILL { // the host alone: its children have to notice
		err = cmd.Process.Kill()
	} else {
		err = syscall.Kill(-cmd.Process.Pid, signal)
	}
	err = errors.Join(err, exitedWith(cmd.Wait(), signal))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := processesOf(dir)
		if len(left) == 0 {
			return err
		}
		if time.Now().After(end) {
			return errors.Join(err, fmt.Errorf("processes are left: %q", left))
		}
	}
}

// exitedWith says what is wrong with the end of a host.
func exitedWith(err error, signal syscall.Signal) error {
	var exit *exec.ExitError
	if signal == syscall.SIGKILL && errors.As(err, &exit) {
		return nil
	}
	return err
}

// processesOf lists the command lines of processes that name dir.
func processesOf(dir string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		line, _ := os.ReadFile(f)
		if text := strings.ReplaceAll(string(line), "\x00", " "); strings.Contains(text, dir) {
			found = append(found, text)
		}
	}
	return found
}

func cmdHost(ts *testscript.TestScript, _ bool, args []string) {
	for i, a := range args {
		if !strings.HasPrefix(a, "-") {
			args[i] = ts.MkAbs(a)
		}
	}
	cmd, err := startHost(ts.Getenv("H"), append(os.Environ(), "XENSTORED_PATH="), args...)
	ts.Check(err)
	s := state(ts)
	s.host = cmd
	ts.Defer(func() {
		if s.host != nil {
			stopHost(s.host, ts.Getenv("H"), syscall.SIGTERM)
		}
	})
}

func cmdHalt(ts *testscript.TestScript, _ bool, args []string) {
	signal := syscall.SIGINT
	if len(args) == 1 {
		signal = map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[0]]
	}
	s := state(ts)
	cmd := s.host
	s.host = nil
	ts.Check(stopHost(cmd, ts.Getenv("H"), signal))
}

func cmdAgent(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command("xenchan", "sim-echo", args[0])
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() { cmd.Process.Kill(); cmd.Wait() })
	_, err = io.ReadFull(out, make([]byte, len(echoReady)))
	ts.Check(err)
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM [ARGUMENT...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got, err := 0, ts.Exec(args[1], args[2:]...)
	if err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func cmdSnapshot(ts *testscript.TestScript, _ bool, _ []string) { state(ts).dump = dump(ts) }

// cmdUnchanged gives the daemon, which removes files on its own, a moment.
func cmdUnchanged(ts *testscript.TestScript, _ bool, _ []string) {
	before := state(ts).dump
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		now := dump(ts)
		if before == now {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("something has changed:\n%s", cmp.Diff(strings.Split(before, "\n"), strings.Split(now, "\n")))
		}
	}
}

// dump is the whole xenstore with its permissions, if there is one, and the names
// and contents of the files of the host and the script.
func dump(ts *testscript.TestScript) string {
	var b strings.Builder
	if path := ts.Getenv("XENSTORED_PATH"); exists(path) {
		cmd := exec.Command("xenstore-ls", "-fp")
		cmd.Env = append(os.Environ(), "XENSTORED_PATH="+path)
		out, err := cmd.Output()
		ts.Check(err)
		b.Write(out)
	}
	for _, root := range []string{ts.Getenv("H"), ts.Getenv("WORK")} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			}
			content := ""
			if e.Type().IsRegular() {
				data, err := os.ReadFile(path)
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				content = string(data)
			}
			fmt.Fprintf(&b, "%s %v %q\n", path, e.Type(), content)
			return nil
		})
		ts.Check(err)
	}
	return b.String()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

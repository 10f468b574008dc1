package sandbox_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/internal/sandbox"
)

// TestMain makes the test binary the process that is restricted: what is given up
// is given up for good.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SANDBOX_TEST_DIR"); dir != "" {
		json.NewEncoder(os.Stdout).Encode(inside(dir))
		return
	}
	os.Exit(m.Run())
}

// report is what happens inside, by what was tried.
type report struct {
	State sandbox.State
	Err   string
	Tried map[string]string
}

// inside restricts the process to dir and then tries things.
func inside(dir string) report {
	r := report{Tried: make(map[string]string)}
	for range 20 { // threads that exist before
		go func() { runtime.LockOSThread(); select {} }()
	}
	var err error
	r.State, err = sandbox.Enter(sandbox.Rules{
		Own: []string{dir + "/own"}, Sockets: []string{dir + "/sockets", dir + "/missing"},
		Read: []string{dir + "/read"}, Devices: []string{"/dev/null", "/dev/ptmx", "/dev/pts"},
	})
	r.Err = fmt.Sprint(err)
	var mu sync.Mutex
	var all sync.WaitGroup
	try := func(name string, f func() error) {
		all.Go(func() {
			runtime.LockOSThread() // on a thread of its own
			err := f()
			mu.Lock()
			r.Tried[name] = fmt.Sprint(err)
			switch {
			case errors.Is(err, syscall.EACCES):
				r.Tried[name] = "by landlock"
			case errors.Is(err, syscall.EPERM):
				r.Tried[name] = "by seccomp"
			}
			mu.Unlock()
		})
	}
	write := func(path string) func() error {
		return func() error { return os.WriteFile(path, []byte("x"), 0o600) }
	}
	read := func(path string) func() error {
		return func() error { _, err := os.ReadFile(path); return err }
	}
	listen := func(path string) func() error {
		return func() error {
			if err := os.Mkdir(path+".d", 0o700); err != nil {
				return err
			}
			l, err := net.Listen("unix", path+".d/s")
			if err != nil {
				return err
			}
			defer l.Close()
			return errors.Join(os.Rename(path+".d/s", path), os.Remove(path+".d"), os.Remove(path))
		}
	}
	try("own: write", write(dir+"/own/a"))
	try("own: socket", listen(dir+"/own/s"))
	try("own: read", read(dir+"/own/file"))
	try("sockets: socket", listen(dir+"/sockets/s"))
	try("sockets: write", write(dir+"/sockets/a"))
	try("sockets: read", read(dir+"/sockets/file"))
	try("read: read", read(dir+"/read/file"))
	try("read: write", write(dir+"/read/a"))
	try("elsewhere: read", read(dir+"/elsewhere/file"))
	try("elsewhere: write", write(dir+"/elsewhere/a"))
	try("elsewhere: socket", listen(dir+"/elsewhere/s"))
	try("run a program", func() error { return exec.Command("/bin/true").Run() })
	try("ptrace", func() error {
		return syscall.PtraceAttach(1 << 30) // nobody: ESRCH where it is allowed
	})
	try("unshare", func() error { return syscall.Unshare(syscall.CLONE_FS) }) // allowed to everybody
	try("mount", func() error { return syscall.Mount("x", dir+"/missing", "nosuchfs", 0, "") })
	try("device", func() error { f, err := os.OpenFile("/dev/null", os.O_RDWR, 0); f.Close(); return err })
	try("another device", read("/dev/zero"))
	all.Wait()
	return r
}

func TestEnter(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"own", "sockets", "read", "elsewhere"} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, d), 0o755), os.WriteFile(filepath.Join(dir, d, "file"), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "SANDBOX_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	if r.State.Landlock < 2 || r.State.Seccomp < 50 || r.Err != "<nil>" {
		t.Fatalf("in force: %+v, %s; this test needs Linux 5.19 with landlock", r.State, r.Err)
	}
	t.Logf("in force: %+v", r.State)
	for name, want := range map[string]string{
		"own: write": "<nil>", "own: socket": "<nil>", "own: read": "<nil>",
		"sockets: socket": "<nil>", "sockets: write": "by landlock", "sockets: read": "by landlock",
		"read: read": "<nil>", "read: write": "by landlock",
		"elsewhere: read": "by landlock", "elsewhere: write": "by landlock", "elsewhere: socket": "by landlock",
		"run a program": "by seccomp", "ptrace": "by seccomp", "unshare": "by seccomp", "mount": "by seccomp",
		"device": "<nil>", "another device": "by landlock",
	} {
		if r.Tried[name] != want {
			t.Errorf("%s: %s, want %s", name, r.Tried[name], want)
		}
	}
	if _, err := os.Stat(dir + "/elsewhere/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

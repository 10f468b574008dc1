package unixsock_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/endpoint/unixsock"
)

// stranger is a user who is neither root nor this one.
const stranger = 4321

// must is for what an attacker does, which has to work for a test to show anything.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestAttack_parent: directories on the way in which somebody else decides what is
// where. Nothing may appear in them, or where they lead.
func TestAttack_parent(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(dir string) error // makes dir/p
		want    string
	}{
		"another's directory": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/p", 0o755), os.Chown(dir+"/p", stranger, -1))
		}, "the directory p belongs to user 4321, who could put something else in place"},
		"another's directory further up": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/up", 0o755), os.Mkdir(dir+"/up/p", 0o755), os.Chown(dir+"/up", stranger, -1), os.Symlink("up/p", dir+"/p"))
		}, "the directory up belongs to user 4321"},
		"everybody's": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/p", 0o755), os.Chmod(dir+"/p", 0o777))
		}, "the directory p can be written by everybody"},
		"everybody's further up": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/up", 0o755), os.Mkdir(dir+"/up/p", 0o755), os.Chmod(dir+"/up", 0o777), os.Symlink("up/p", dir+"/p"))
		}, "the directory up can be written by everybody"},
		"everybody's, by way of a private one": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/shared", 0o755), os.Chmod(dir+"/shared", 0o777),
				os.Mkdir(dir+"/private", 0o700), os.Symlink(dir+"/shared", dir+"/private/absolute"), os.Symlink("private/absolute", dir+"/p"))
		}, "the directory shared can be written by everybody"},
		"everybody's, up from a private one": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/shared", 0o755), os.Chmod(dir+"/shared", 0o777),
				os.Mkdir(dir+"/private", 0o700), os.Symlink("private/../shared", dir+"/p"))
		}, "the directory shared can be written by everybody"},
		"another's link": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/real", 0o755), os.Symlink("real", dir+"/p"), os.Lchown(dir+"/p", stranger, -1))
		}, "p is a symbolic link of user 4321"},
	} {
		dir := sharedDir(t)
		must(t, c.prepare(dir))
		path := dir + "/p/a.sock"
		e, err := unixsock.Listen(unixsock.Config{Path: path})
		if err == nil {
			e.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(dir + "/*/*.sock"); len(left) > 0 {
			t.Errorf("%s: there is %v", name, left)
		}
	}
}

// What is as it should be: a sticky directory, one of the socket's own owner, and
// one that nobody else gets to.
func TestAttack_parentThatIsFine(t *testing.T) {
	dir := sharedDir(t)
	must(t, os.Mkdir(dir+"/sticky", 0o755), os.Chmod(dir+"/sticky", 0o777|os.ModeSticky),
		os.Mkdir(dir+"/owners", 0o755), os.Chown(dir+"/owners", stranger, -1),
		os.Mkdir(dir+"/private", 0o700), os.Mkdir(dir+"/private/open", 0o755), os.Chmod(dir+"/private/open", 0o777))
	listen(t, unixsock.Config{Path: dir + "/private/open/a.sock"})
	listen(t, unixsock.Config{Path: dir + "/sticky/a.sock"})
	listen(t, unixsock.Config{Path: dir + "/owners/a.sock", UID: new(stranger)})
}

// TestAttack_hardLinks: second names of what is somebody else's, where the socket
// shall be: a file, and a socket on which somebody listens.
func TestAttack_hardLinks(t *testing.T) {
	dir := sharedDir(t)
	must(t, os.WriteFile(dir+"/precious", []byte("precious"), 0o600), os.Link(dir+"/precious", dir+"/a.sock"))
	live, err := net.Listen("unix", dir+"/live")
	must(t, err)
	defer live.Close()
	must(t, os.Link(dir+"/live", dir+"/b.sock"))
	for name, want := range map[string]error{"a.sock": syscall.EEXIST, "b.sock": syscall.EADDRINUSE} {
		if _, err := unixsock.Listen(unixsock.Config{Path: dir + "/" + name}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if got, err := os.ReadFile(dir + "/precious"); string(got) != "precious" || err != nil {
		t.Errorf("the file holds %q, %v", got, err)
	}
	c, err := net.Dial("unix", dir+"/live")
	must(t, err)
	c.Close()
}

// TestAttack_swaps: somebody with the right to write to the directory puts one
// thing after the other at the path, as fast as can be, while we try to listen
// there. What the things lead to stays as it is, and a socket of ours that was
// there before they came again is whole.
func TestAttack_swaps(t *testing.T) {
	dir := sharedDir(t)
	for _, d := range []string{"/in", "/out"} {
		must(t, os.Mkdir(dir+d, 0o755))
	}
	must(t, os.WriteFile(dir+"/out/precious", []byte("precious"), 0o600))
	live, err := net.Listen("unix", dir+"/out/live")
	must(t, err)
	defer live.Close()
	path := dir + "/in/a.sock"

	stop := make(chan struct{})
	var attacker sync.WaitGroup
	attacker.Go(func() {
		next := dir + "/in/next"
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			os.Remove(next)
			switch i % 6 {
			case 0:
				os.Symlink(dir+"/out/precious", next)
			case 1:
				os.Symlink(dir+"/out/missing", next)
			case 2:
				os.Link(dir+"/out/precious", next)
			case 3:
				os.Link(dir+"/out/live", next)
			case 4:
				abandonAt(next)
			case 5:
				os.Remove(path)
				continue
			}
			os.Rename(next, path)
		}
	})
	won := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end) && (won < 50 || time.Until(end) > time.Second); {
		e, err := unixsock.Listen(unixsock.Config{Path: path})
		if err == nil {
			won++
			e.Close()
		}
	}
	close(stop)
	attacker.Wait()
	t.Logf("%d times a socket was made", won)
	if won == 0 {
		t.Error("never")
	}
	if got, err := os.ReadFile(dir + "/out/precious"); string(got) != "precious" || err != nil {
		t.Errorf("the file holds %q, %v", got, err)
	}
	c, err := net.Dial("unix", dir+"/out/live")
	must(t, err)
	c.Close()
	if out := names(t, dir+"/out"); strings.Count(out, "\n") != 2 {
		t.Errorf("where nothing was to be made there is\n%s", out)
	}
	if left, _ := filepath.Glob(dir + "/in/.xenchan-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// abandonAt makes a socket that nobody listens on.
func abandonAt(path string) {
	if l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err == nil {
		l.SetUnlinkOnClose(false)
		l.Close()
	}
}

// TestAttack_dotsInPath: what path.Clean would resolve is resolved by the kernel's
// rules, and never leads through what is no directory or does not exist.
func TestAttack_dotsInPath(t *testing.T) {
	dir := sharedDir(t)
	must(t, os.Mkdir(dir+"/d", 0o755), os.WriteFile(dir+"/file", nil, 0o600), os.Mkdir(dir+"/foreign", 0o755), os.Chown(dir+"/foreign", stranger, -1))
	for path, ok := range map[string]bool{
		"/d/../a.sock": true, "/file/../a.sock": false, "/missing/../a.sock": false, "/foreign/../a.sock": false,
	} {
		e, err := unixsock.Listen(unixsock.Config{Path: dir + path})
		if (err == nil) != ok {
			t.Errorf("%s: %v", path, err)
		}
		if err == nil {
			e.Close()
		}
	}
}

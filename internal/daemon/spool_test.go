package daemon

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/spool"
)

func newSpools(t *testing.T, runDir string) *spools {
	t.Helper()
	s, err := openSpools(runDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	return s
}

// mustOpen opens a spool and gives what its log said too.
func (s *spools) mustOpen(t *testing.T, name, label string, spec channel.Spec) (spoolFile, *bytes.Buffer) {
	t.Helper()
	var said bytes.Buffer
	f, err := s.open(name, label, spec.WithDefaults(), slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return f, &said
}

func TestSpools_goOnWithTheSameChannelAlone(t *testing.T) {
	dir := t.TempDir()
	spec := channel.Spec{Name: "a"}
	f, _ := newSpools(t, dir).mustOpen(t, "3-1", "a one", spec)
	f.Append([]byte("last words"), 0)
	// No close: the daemon is killed.

	f, said := newSpools(t, dir).mustOpen(t, "3-1", "a one", spec)
	if p := f.Positions(); p.Spooled != 10 || !strings.Contains(said.String(), "bytes=10") {
		t.Errorf("the next daemon finds %+v and says %q", p, said)
	}
	if got := string(f.Peek()); got != "last words" {
		t.Errorf("the next daemon finds %q", got)
	}
	for _, c := range []struct {
		name, label string
		spec        channel.Spec
	}{
		{"3-1", "a two", spec}, // detached and attached while nobody looked
		{"3-1", "b two", spec},
		{"3-1", "b two", channel.Spec{Name: "b", Spool: 8192}},
		{"3-2", "b two", spec},
	} {
		f, said := newSpools(t, dir).mustOpen(t, c.name, c.label, c.spec)
		if p := f.Positions(); p != (spool.Positions{}) {
			t.Errorf("%+v got the spool of another: %+v", c, p)
		}
		if strings.Contains(said.String(), "level=ERROR") {
			t.Errorf("%+v: %s", c, said)
		}
		f.Append([]byte("something"), 0)
	}
}

func TestSpools_areSecret(t *testing.T) {
	dir := t.TempDir()
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	s := newSpools(t, dir)
	s.mustOpen(t, "3-1", "", channel.Spec{})
	for path, want := range map[string]os.FileMode{spoolDir: os.ModeDir | 0o700, spoolDir + "/3-1": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	for _, create := range []func(string) error{
		func(p string) error { return os.Mkdir(p, 0o755) },
		func(p string) error { return os.Symlink(dir, p) },
		func(p string) error { return os.WriteFile(p, nil, 0o600) },
	} {
		other := t.TempDir()
		if err := create(filepath.Join(other, spoolDir)); err != nil {
			t.Fatal(err)
		}
		if _, err := openSpools(other); err == nil {
			t.Error("a directory that is not ours alone was used")
		}
	}
}

func TestSpools_sweepAndRemove(t *testing.T) {
	dir := t.TempDir()
	s := newSpools(t, dir)
	files := func() string {
		all, err := os.ReadDir(filepath.Join(dir, spoolDir))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range all {
			names = append(names, f.Name())
		}
		return strings.Join(names, " ")
	}
	var open []spoolFile
	for _, name := range []string{"1-1", "1-2", "2-1", "3-1"} {
		f, _ := s.mustOpen(t, name, "", channel.Spec{})
		open = append(open, f)
	}
	for _, f := range open[:3] {
		if err := f.close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.sweep(map[string]bool{"1-2": true}); err != nil {
		t.Fatal(err)
	}
	if got := files(); got != "1-2 3-1" { // 3-1 is in use
		t.Errorf("left: %s", got)
	}
	for _, name := range []string{"1-2", "1-2", "3-1"} {
		if err := s.remove(name); err != nil {
			t.Error(err)
		}
	}
	if got := files(); got != "3-1" {
		t.Errorf("left: %s", got)
	}
}

// blocks is how many bytes of memory or disk a spool takes.
func blocks(t *testing.T, dir, name string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, spoolDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

func TestSpools_takeLittle(t *testing.T) {
	dir := t.TempDir()
	f, _ := newSpools(t, dir).mustOpen(t, "3-1", "", channel.Spec{})
	for range 1000 {
		f.Append(make([]byte, 2048), 0)
		f.Advance(len(f.Peek()), 0)
	}
	if got := blocks(t, dir, "3-1"); got > 4*4096 { // header, inbox, flight, data
		t.Errorf("the spool of a channel that is read takes %d bytes", got)
	}
	f.Append(make([]byte, 1<<20), 0)
	if got := blocks(t, dir, "3-1"); got < 1<<20 {
		t.Errorf("a full spool takes %d bytes", got)
	}
	for p := f.Peek(); p != nil; p = f.Peek() {
		f.Advance(len(p), 0)
	}
	if got := blocks(t, dir, "3-1"); got > 110<<10 {
		t.Errorf("a spool that is empty again takes %d bytes", got)
	}
}

// However much guests say that nobody reads, an eighth of the file system that the
// spools are in, which is all of /run, is left to others, and a little goes on to fit.
func TestSpools_leaveRoom(t *testing.T) {
	if dir := os.Getenv("XENCHAN_SMALL_DISK"); dir != "" {
		testLeaveRoom(t, dir)
		return
	}
	const disk = `mount -t tmpfs -o size=8m small "$XENCHAN_SMALL_DISK" && exec "$0" -test.run='^TestSpools_leaveRoom$' -test.v`
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", disk, os.Args[0])
	cmd.Env = append(os.Environ(), "XENCHAN_SMALL_DISK="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

func testLeaveRoom(t *testing.T, dir string) {
	s := newSpools(t, dir)
	for _, name := range []string{"1-1", "1-2", "1-3", "1-4", "1-5"} {
		f, said := s.mustOpen(t, name, "", channel.Spec{})
		for range 4096 {
			f.Append(make([]byte, 2048), 0)
		}
		p := f.Positions()
		if p.End != 8<<20 || p.Spooled+p.Dropped != p.End || p.Spooled < 4096 {
			t.Errorf("%s: %+v", name, p)
		}
		t.Logf("%s holds %d bytes", name, p.Spooled)
		if name == "1-5" && !strings.Contains(said.String(), "some are left to others") {
			t.Errorf("nobody was told: %q", said)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "of others"), make([]byte, 1000<<10), 0o600); err != nil {
		t.Error(err)
	}
}

// A spool that cannot be in a file is no reason not to serve the channel.
func TestSpools_withoutAFile(t *testing.T) {
	dir := t.TempDir()
	s := newSpools(t, dir)
	if err := os.Mkdir(filepath.Join(dir, spoolDir, "3-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, said := s.mustOpen(t, "3-1", "", channel.Spec{})
	if !strings.Contains(said.String(), "level=ERROR") {
		t.Errorf("nobody was told: %q", said)
	}
	if n := f.Append([]byte("abc"), 0); n != 3 || string(f.Peek()) != "abc" {
		t.Error("the spool does not work")
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
}

package sys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func openDir(t *testing.T) (*Dir, string) {
	t.Helper()
	path := t.TempDir()
	d, err := OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, path
}

func TestOpenSized(t *testing.T) {
	d, path := openDir(t)
	file := filepath.Join(path, "a")
	for i, step := range []struct {
		size  int64
		fresh bool
	}{{10000, true}, {10000, false}, {20000, true}, {10000, true}} {
		h, fresh, err := d.OpenSized("a", step.size)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if fresh != step.fresh || info.Size() != step.size || info.Mode() != 0o600 {
			t.Errorf("step %d: fresh %v, size %d, mode %v", i, fresh, info.Size(), info.Mode())
		}
		m, err := Map(Extent{File: h, Len: int(step.size)})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Bytes()[9999]; (got == 0) != step.fresh {
			t.Errorf("step %d: the file holds %d, fresh %v", i, got, fresh)
		}
		m.Bytes()[9999] = 7
		m.Close()
		h.Close()
	}
}

func TestOpenSized_refusesWhatIsNotOurs(t *testing.T) {
	d, path := openDir(t)
	victim := filepath.Join(path, "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, create := range map[string]func(string) error{
		"symbolic link": func(p string) error { return os.Symlink(victim, p) },
		"dangling link": func(p string) error { return os.Symlink(victim+"2", p) },
		"hard link":     func(p string) error { return os.Link(victim, p) },
		"open to all":   func(p string) error { return os.WriteFile(p, nil, 0o644) },
		"fifo":          func(p string) error { return unix.Mkfifo(p, 0o600) },
		"directory":     func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		if err := create(filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
		if h, _, err := d.OpenSized(name, 100); err == nil || h != nil {
			t.Errorf("%s was opened", name)
		}
		if err := os.Remove(filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "precious" {
		t.Errorf("the file behind the links now holds %q, %v", got, err)
	}
	if _, err := os.Lstat(victim + "2"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a file was made where a link led")
	}
}

func TestAllocate_andPunch(t *testing.T) {
	d, path := openDir(t)
	h, _, err := d.OpenSized("a", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(path, "a"), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	if got := blocks(); got != 0 {
		t.Fatalf("a fresh file takes %d bytes", got)
	}
	if err := h.Allocate(0, 256<<10); err != nil {
		t.Fatal(err)
	}
	if got := blocks(); got != 256<<10 {
		t.Fatalf("%d bytes after 256 KiB were allocated", got)
	}
	if err := h.Punch(64<<10, 192<<10); err != nil {
		t.Fatal(err)
	}
	if got := blocks(); got != 64<<10 {
		t.Fatalf("%d bytes after all but 64 KiB was given back", got)
	}
	if err := h.Allocate(0, 1<<60); !errors.Is(err, syscall.EFBIG) && !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("2^60 bytes: %v", err)
	}
}

package xenstore

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSearchPath(t *testing.T) {
	devices := []string{"/dev/xen/xenbus", "/proc/xen/xenbus"}
	for _, c := range []struct {
		path string
		env  map[string]string
		want []string
	}{
		{"", nil, append([]string{"/var/run/xenstored/socket"}, devices...)},
		{"", map[string]string{"XENSTORED_RUNDIR": "/r"}, append([]string{"/r/socket"}, devices...)},
		{"", map[string]string{"XENSTORED_RUNDIR": "/r", "XENSTORED_PATH": "/s"}, []string{"/s"}},
		{"/mine", map[string]string{"XENSTORED_PATH": "/s"}, []string{"/mine"}},
	} {
		equal(t, searchPath(c.path, func(k string) string { return c.env[k] }), c.want)
	}
}

// listen serves a fake daemon on a unix socket.
func listen(t testing.TB, nodes map[string]string) (path string) {
	path = filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	ok(t, err)
	gone := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-gone })
	go func() {
		defer close(gone)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f := startFake(&peer{t: t, conn: conn}, nodes)
			defer func() { <-f.gone }()
		}
	}()
	return path
}

func TestOpen_socket(t *testing.T) {
	ctx := t.Context()
	path := listen(t, map[string]string{"/a": "1"})
	for _, env := range []string{"", path} {
		t.Setenv("XENSTORED_PATH", env)
		arg := path
		if env != "" {
			arg = ""
		}
		s, err := Open(ctx, arg)
		ok(t, err)
		equal(t, s.c.device, false)
		equal(t, must(s.Read(ctx, "/a"))(t), "1")
		ok(t, s.Close())
	}
}

func TestOpen_errors(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	t.Setenv("XENSTORED_PATH", "")
	t.Setenv("XENSTORED_RUNDIR", dir)
	_, err := Open(ctx, "")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{dir + "/socket (no such file or directory)", "/dev/xen/xenbus (", "/proc/xen/xenbus (", "XENSTORED_PATH"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}

	file := filepath.Join(dir, "file")
	ok(t, os.WriteFile(file, nil, 0o600))
	_, err = Open(ctx, file)
	equal(t, err.Error(), "xenstore: cannot connect: "+file+
		" (neither a socket nor a device); check the path, and that xenstored runs")

	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	ok(t, err)
	l.SetUnlinkOnClose(false)
	ok(t, l.Close())
	_, err = Open(ctx, stale)
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "start xenstored") {
		t.Errorf("got %v", err)
	}

	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err = Open(cancelled, listen(t, nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	equal(t, (&openError{errs: []error{fs.ErrPermission}}).hint(), "try again as root")
}

// A full queue is no failure: who is in it waits for its turn.
func TestOpen_fullBacklog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	ok(t, err)
	defer syscall.Close(fd)
	ok(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
	ok(t, syscall.Listen(fd, 0))
	first, err := Open(t.Context(), path)
	ok(t, err)
	defer first.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	errs := make(chan error)
	go func() {
		s, err := Open(t.Context(), path)
		if err == nil {
			err = s.Close()
		}
		errs <- err
	}()
	select {
	case err := <-errs:
		t.Fatalf("came back with %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	accepted, _, err := syscall.Accept(fd)
	ok(t, err)
	defer syscall.Close(accepted)
	ok(t, <-errs)
}

// A device must be on the runtime's poller, or Close would wait for Read.
func TestOpenStream_closeWakesDevice(t *testing.T) {
	stream, device, err := OpenStream(t.Context(), "/dev/ptmx")
	ok(t, err)
	equal(t, device, true)
	errs := make(chan error)
	go func() { _, err := stream.Read(make([]byte, 1)); errs <- err }()
	time.Sleep(10 * time.Millisecond) // most likely Read blocks by now
	ok(t, stream.Close())
	if err := <-errs; !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestValidPath(t *testing.T) {
	for path, want := range map[string]bool{
		"/": true, "/a": true, "a": true, "a/b": true, "/local/domain/0/a-b_c@d": true,
		"": false, "/a/": false, "a/": false, "//": false, "/a//b": false, "@x": false,
		"/a.b": false, "/a:b": false, "/a b": false, "/ä": false, "/a\x00": false,
		"/" + strings.Repeat("a", 3071): true, "/" + strings.Repeat("a", 3072): false,
		strings.Repeat("a", 2048): true, strings.Repeat("a", 2049): false,
	} {
		if err := ValidPath(path); (err == nil) != want {
			t.Errorf("%.20q: %v", path, err)
		}
	}
	ok(t, checkPath("@releaseDomain", true))
}

// Whatever ValidPath lets through splits into parts that are not empty.
func TestValidPath_property(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		path := rapid.StringMatching(`[/@]?[a-b.@/ ]{0,6}`).Draw(t, "path")
		bad := path == "" || strings.ContainsAny(path, ". ") || path[0] == '@'
		for part := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
			bad = bad || part == "" && path != "/"
		}
		if got := ValidPath(path) == nil; got == bad {
			t.Fatalf("ValidPath(%q) = %v", path, got)
		}
	})
}

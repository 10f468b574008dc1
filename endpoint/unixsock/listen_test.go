package unixsock_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/endpoint/unixsock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestListen_rights(t *testing.T) {
	for _, umask := range []int{0, 0o077} {
		old := syscall.Umask(umask)
		for _, tt := range []struct {
			cfg      unixsock.Config
			mode     os.FileMode
			uid, gid uint32
		}{
			{unixsock.Config{}, 0o600, uint32(os.Getuid()), uint32(os.Getgid())},
			{unixsock.Config{Mode: 0o660, UID: new(1234), GID: new(5678)}, 0o660, 1234, 5678},
			{unixsock.Config{Mode: 0o666}, 0o666, uint32(os.Getuid()), uint32(os.Getgid())},
		} {
			tt.cfg.Path = filepath.Join(t.TempDir(), "a.sock")
			listen(t, tt.cfg)
			info, err := os.Lstat(tt.cfg.Path)
			if err != nil {
				t.Fatal(err)
			}
			st := info.Sys().(*syscall.Stat_t)
			if info.Mode() != fs.ModeSocket|tt.mode || st.Uid != tt.uid || st.Gid != tt.gid {
				t.Errorf("umask %#o: %v, owner %d, group %d", umask, info.Mode(), st.Uid, st.Gid)
			}
			onlyFile(t, tt.cfg.Path)
		}
		syscall.Umask(old)
	}
}

// onlyFile checks that nothing is left lying about beside path.
func onlyFile(t *testing.T, path string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Name() != filepath.Base(path) {
		t.Errorf("in the directory: %v", list)
	}
}

// TestListen_neverHalfDone looks at the path all the time, as somebody who waits
// for the socket would.
func TestListen_neverHalfDone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for seen := 0; ; {
			select {
			case <-stop:
				if seen == 0 {
					t.Error("the socket was never seen")
				}
				return
			default:
			}
			if info, err := os.Lstat(path); err == nil {
				seen++
				if info.Mode() != fs.ModeSocket|0o640 {
					t.Errorf("seen with mode %v", info.Mode())
				}
			}
		}
	})
	for range 300 {
		e := listen(t, unixsock.Config{Path: path, Mode: 0o640})
		dial(t, path).Close()
		e.Close()
	}
	close(stop)
	watching.Wait()
}

// abandon makes a socket that nobody listens on any more.
func abandon(t *testing.T, path string) {
	t.Helper()
	abandonAt(path)
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
}

func TestListen_abandonedSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	abandon(t, path)
	e := listen(t, unixsock.Config{Path: path})
	onlyFile(t, path)
	c := dial(t, path)
	host, err := e.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	io.WriteString(c, "hi")
	expect(t, host, "hi")
}

// TestListen_oneOfMany: several start on one abandoned socket at the same time.
func TestListen_oneOfMany(t *testing.T) {
	for range 100 {
		path := filepath.Join(t.TempDir(), "a.sock")
		abandon(t, path)
		var mu sync.Mutex
		var won []*unixsock.Endpoint
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				e, err := unixsock.Listen(unixsock.Config{Path: path})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, e)
				} else if !errors.Is(err, syscall.EADDRINUSE) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if len(won) != 1 {
			t.Errorf("%d of them listen", len(won))
		}
		if len(won) > 0 {
			dial(t, path)
			onlyFile(t, path)
		}
		for _, e := range won {
			e.Close()
		}
	}
}

// TestListen_lockHeld: somebody who sits on the directory's lock is named, and
// only a replacement needs it.
func TestListen_lockHeld(t *testing.T) {
	dir := t.TempDir()
	abandon(t, dir+"/old")
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	listen(t, unixsock.Config{Path: dir + "/new"})
	if _, err := unixsock.Listen(unixsock.Config{Path: dir + "/old"}); !errors.Is(err, syscall.EWOULDBLOCK) ||
		!strings.Contains(err.Error(), "lslocks") {
		t.Errorf("%v", err)
	}
}

func TestListen_takenPathIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	live := filepath.Join(dir, "live")
	listen(t, unixsock.Config{Path: live})
	datagram := filepath.Join(dir, "datagram")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: datagram, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	abandon(t, filepath.Join(dir, "abandoned"))
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "file"), []byte("precious"), 0o600),
		os.Mkdir(filepath.Join(dir, "directory"), 0o700),
		os.Symlink("nowhere", filepath.Join(dir, "dangling")),
		os.Symlink("abandoned", filepath.Join(dir, "link")),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before := names(t, dir)
	for name, want := range map[string]struct {
		err  error
		text string
	}{
		"live":      {syscall.EADDRINUSE, "a program listens there already; stop it or choose another path"},
		"datagram":  {syscall.EADDRINUSE, "a program listens there already"},
		"file":      {fs.ErrExist, "there is a regular file; remove it or choose another path"},
		"directory": {fs.ErrExist, "there is a directory"},
		"dangling":  {fs.ErrExist, "there is a symbolic link"},
		"link":      {fs.ErrExist, "there is a symbolic link"},
		"fifo":      {fs.ErrExist, "a file that is not a socket"},
	} {
		e, err := unixsock.Listen(unixsock.Config{Path: filepath.Join(dir, name)})
		if err == nil {
			e.Close()
		}
		if !errors.Is(err, want.err) || !strings.Contains(err.Error(), want.text) ||
			!strings.Contains(err.Error(), filepath.Join(dir, name)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := names(t, dir); after != before {
		t.Errorf("before %s, after %s", before, after)
	}
	dial(t, live)
}

// names lists a directory with types, modes and times.
func names(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, entry := range list {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(fs.FormatFileInfo(info) + "\n")
	}
	return b.String()
}

func TestListen_badPath(t *testing.T) {
	dir := t.TempDir()
	long := dir + "/" + strings.Repeat("x", unixsock.MaxPath-len(dir))
	for path, want := range map[string]error{
		"":              syscall.EINVAL,
		"a.sock":        syscall.EINVAL,
		"@abstract":     syscall.EINVAL,
		dir + "/a\x00b": syscall.EINVAL,
		dir + "/":       syscall.EINVAL,
		dir + "/..":     syscall.EINVAL,
		long:            syscall.ENAMETOOLONG,
		dir + "/no/a":   fs.ErrNotExist,
	} {
		e, err := unixsock.Listen(unixsock.Config{Path: path})
		if err == nil {
			e.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", path, err, want)
		}
	}
	longest := long[:unixsock.MaxPath]
	listen(t, unixsock.Config{Path: longest})
	dial(t, longest)
}

func TestListen_runDir(t *testing.T) {
	base := filepath.Join(t.TempDir(), "run")
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	path := base + "/domain//deep/a.sock"
	listen(t, unixsock.Config{Path: path, RunDir: base})
	listen(t, unixsock.Config{Path: base + "/private/a.sock", RunDir: base + "/", DirMode: 0o700})
	for dir, want := range map[string]os.FileMode{
		base: 0o755, base + "/domain": 0o755, base + "/domain/deep": 0o755, base + "/private": 0o700,
	} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
	dial(t, path)

	for _, outside := range []string{base + "x/a.sock", base + "/../y/a.sock"} {
		if e, err := unixsock.Listen(unixsock.Config{Path: outside, RunDir: base}); err == nil {
			e.Close()
			t.Errorf("made a directory for %s", outside)
		}
	}
	elsewhere := t.TempDir()
	if err := os.Symlink(elsewhere, base+"/link"); err != nil {
		t.Fatal(err)
	}
	_, err := unixsock.Listen(unixsock.Config{Path: base + "/link/a.sock", RunDir: base})
	if !errors.Is(err, syscall.ELOOP) {
		t.Errorf("through a link below the run directory: %v", err)
	}
}

func TestListen_symlinksOnTheWay(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/real", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"relative": "real", "absolute": dir + "/real", "twice": "relative/.", "foreign": "real", "loop": "loop",
	} {
		if err := os.Symlink(target, dir+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Lchown(dir+"/foreign", 1234, -1); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"relative", "absolute", "twice"} {
		e := listen(t, unixsock.Config{Path: dir + "/" + name + "/a.sock"})
		dial(t, dir+"/real/a.sock")
		e.Close()
		if _, err := os.Lstat(dir + "/real/a.sock"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: still there: %v", name, err)
		}
	}
	for _, name := range []string{"foreign", "loop"} {
		if _, err := unixsock.Listen(unixsock.Config{Path: dir + "/" + name + "/a.sock"}); !errors.Is(err, syscall.ELOOP) {
			t.Errorf("%s: %v, want ELOOP", name, err)
		}
	}
}

func TestClose_onlyOurSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	e := listen(t, unixsock.Config{Path: path})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other := listen(t, unixsock.Config{Path: path})
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	dial(t, path)
	os.RemoveAll(filepath.Dir(path))
	if err := other.Close(); err != nil {
		t.Errorf("Close with the directory gone: %v", err)
	}
}

// TestAccept_cancelledKeepsClient: a client that comes at the moment of the
// cancelling is either returned or still there for the next Accept.
func TestAccept_cancelledKeepsClient(t *testing.T) {
	e := listen(t, unixsock.Config{Path: filepath.Join(t.TempDir(), "a.sock")})
	for range 500 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		c := dial(t, e.Path())
		host, err := e.Accept(ctx)
		if err != nil {
			later, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			host, err = e.Accept(later)
			cancel()
		}
		if err != nil {
			t.Fatal(err)
		}
		host.Close()
		c.Close()
	}
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(r, got)
	if string(got[:n]) != want || err != nil {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

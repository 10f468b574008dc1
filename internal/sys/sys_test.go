package sys

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// byItself runs a test in a process of its own, as what it does cannot be taken back. It
// is true in that process.
func byItself(t *testing.T) bool {
	t.Helper()
	const variable = "TEST_BY_ITSELF"
	if os.Getenv(variable) == t.Name() {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// newBell is an eventfd, and what waits for it.
func newBell(t *testing.T) (*Handle, *Bells, uint32) {
	t.Helper()
	h, err := NewEventfd()
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewBells()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(); _ = h.Close() })
	key, err := b.Add(h)
	if err != nil {
		t.Fatal(err)
	}
	return h, b, key
}

// rung is the keys that have an event now.
func rung(t *testing.T, b *Bells) []uint32 {
	t.Helper()
	keys := make([]uint32, 8)
	n, err := b.Wait(keys, 0)
	if err != nil {
		t.Fatal(err)
	}
	return keys[:n]
}

func TestBells_coalesce(t *testing.T) {
	h, b, key := newBell(t)
	for range 2 {
		for range 3 {
			if err := h.Signal(); err != nil {
				t.Fatal(err)
			}
		}
		if got := rung(t, b); !slices.Equal(got, []uint32{key}) {
			t.Errorf("events of %v, want %v", got, key)
		}
		if got := rung(t, b); len(got) > 0 {
			t.Errorf("three signals gave a second event: %v", got)
		}
	}
}

func TestBells_remove(t *testing.T) {
	h, b, key := newBell(t)
	if err := errors.Join(b.Remove(key), h.Signal(), b.Remove(key)); err != nil {
		t.Fatal(err)
	}
	if got := rung(t, b); len(got) > 0 {
		t.Errorf("events of %v, which was removed", got)
	}
	key, err := b.Add(h)
	if err != nil {
		t.Fatal(err)
	}
	_ = rung(t, b) // perhaps of what came before
	if err := h.Signal(); err != nil {
		t.Fatal(err)
	}
	if got := rung(t, b); !slices.Equal(got, []uint32{key}) {
		t.Errorf("events of %v, want %v", got, key)
	}
}

func TestBells_wait(t *testing.T) {
	_, b, _ := newBell(t)
	begin := time.Now()
	const short = 3 * time.Millisecond
	if n, err := b.Wait(make([]uint32, 8), short); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if took := time.Since(begin); took < short {
		t.Errorf("it waited %v of %v", took, short)
	}
	woke := make(chan error, 1)
	go func() { _, err := b.Wait(make([]uint32, 8), -1); woke <- err }()
	time.Sleep(10 * time.Millisecond)
	if err := b.Wake(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-woke:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Wake did not wake Wait")
	}
}

func TestSignal_fullCounterIsNoError(t *testing.T) {
	h, b, _ := newBell(t)
	full := bytes.Repeat([]byte{0xff}, 8)
	full[0] = 0xfe
	if _, err := unix.Write(h.fd, full); err != nil {
		t.Fatal(err)
	}
	if err := h.Signal(); err != nil {
		t.Fatal(err)
	}
	if len(rung(t, b)) != 1 {
		t.Error("no event")
	}
}

func TestHandle_closeUnderUse(t *testing.T) {
	h, _, _ := newBell(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for h.Signal() == nil {
			}
		})
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := h.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
	if err := h.Signal(); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("got %v, want os.ErrClosed", err)
	}
}

func TestMemfd_cannotChangeSize(t *testing.T) {
	h, err := NewMemfd("test", 8192)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, size := range []int64{0, 4096, 16384} {
		if err := unix.Ftruncate(h.fd, size); err != unix.EPERM {
			t.Errorf("ftruncate to %d: %v, want EPERM", size, err)
		}
	}
	if _, err := unix.FcntlInt(uintptr(h.fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err != unix.EPERM {
		t.Errorf("another seal: %v, want EPERM", err)
	}
}

func TestMap_extentsOfSeveralFiles(t *testing.T) {
	page := os.Getpagesize()
	a, err := NewMemfd("a", int64(2*page))
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewMemfd("b", int64(page))
	if err != nil {
		t.Fatal(err)
	}
	all, err := Map(Extent{a, int64(page), page}, Extent{b, 0, page}, Extent{a, 0, page})
	if err != nil {
		t.Fatal(err)
	}
	part, err := Map(Extent{a, int64(page) + 100, 50})
	if err != nil {
		t.Fatal(err)
	}
	_ = a.Close()
	_ = b.Close()
	copy(all.Bytes()[100:], "hello")
	if got := part.Bytes()[:5]; string(got) != "hello" {
		t.Errorf("the other mapping shows %q", got)
	}
	if len(all.Bytes()) != 3*page || len(part.Bytes()) != 50 {
		t.Errorf("lengths are %d and %d", len(all.Bytes()), len(part.Bytes()))
	}
	for _, m := range []*Mapping{all, part, all} {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Map(Extent{a, 0, page}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("map of a closed file: %v", err)
	}
}

func TestMap_refusesBadExtents(t *testing.T) {
	f, err := NewMemfd("f", int64(os.Getpagesize()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, es := range [][]Extent{
		{{f, 0, 0}}, {{f, -4096, 4096}}, {{f, 0, -1}}, {{f, 0, 4096}, {f, 0, 0}}, {{f, 0, 100}, {f, 0, 100}}, {},
	} {
		if m, err := Map(es...); err == nil {
			_ = m.Close()
			t.Errorf("extents %v were mapped", es)
		}
	}
}

func TestSendMsg_passesDescriptors(t *testing.T) {
	ours, theirs, err := Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	peer, err := UnixConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	ev, err := NewEventfd()
	if err != nil {
		t.Fatal(err)
	}
	defer ev.Close()
	if err := SendMsg(ours, []byte("two"), ev, ev); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	n, hs, err := RecvMsg(peer, buf, 2)
	if err != nil || string(buf[:n]) != "two" || len(hs) != 2 {
		t.Fatalf("got %q, %d descriptors, %v", buf[:n], len(hs), err)
	}
	defer CloseAll(hs)
	_ = ev.Signal()
	var counter [8]byte
	if err := hs[0].use(func(fd int) error { _, err := unix.Read(fd, counter[:]); return err }); err != nil || counter == [8]byte{} {
		t.Fatalf("the counter is %v, %v", counter, err)
	}

	before := countFDs(t)
	if err := SendMsg(ours, []byte("more"), ev, ev, ev, ev); err != nil {
		t.Fatal(err)
	}
	if n, _, err := RecvMsg(peer, buf, 1); !errors.Is(err, syscall.EMFILE) || string(buf[:n]) != "more" {
		t.Fatalf("too many descriptors: %q, %v, want EMFILE", buf[:n], err)
	}
	if after := countFDs(t); after != before {
		t.Errorf("%d descriptors before the refused message, %d after", before, after)
	}
	cred, err := PeerCred(peer)
	if err != nil || cred.UID != uint32(os.Getuid()) || cred.PID != int32(os.Getpid()) {
		t.Errorf("peer is %+v, %v", cred, err)
	}
}

func TestUnixConn_refusesOtherSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := UnixConn(NewHandle(fd)); err == nil {
		_ = c.Close()
		t.Fatal("a TCP socket was taken")
	}
}

func TestLockFile_excludes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockFile(path); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Fatalf("second lock: %v, want EWOULDBLOCK", err)
	}
	_ = first.Close()
	again, err := LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}

func countFDs(t *testing.T) int {
	t.Helper()
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}

// An access control list is seen, also one that makes no difference to the mode.
func TestHasACL(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := os.WriteFile(path, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if has, err := HasACL(path); has || err != nil {
		t.Errorf("a plain file: %v, %v", has, err)
	}
	// Version 2; user::rw-, user:4711:r--, group::r--, mask::r--, other::--- (linux/posix_acl_xattr.h).
	acl := []byte{2, 0, 0, 0}
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, 1<<32 - 1}, {2, 4, 4711}, {4, 4, 1<<32 - 1}, {16, 4, 1<<32 - 1}, {32, 0, 1<<32 - 1}} {
		acl = binary.LittleEndian.AppendUint16(acl, e.tag)
		acl = binary.LittleEndian.AppendUint16(acl, e.perm)
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	if err := unix.Setxattr(path, "system.posix_acl_access", acl, 0); err != nil {
		t.Fatal(err)
	}
	if has, err := HasACL(path); !has || err != nil {
		t.Errorf("with a list: %v, %v", has, err)
	}
	if _, err := HasACL(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// What is populated has its place in the file, and what is discarded has not.
func TestMapping_populateDiscard(t *testing.T) {
	page := os.Getpagesize()
	h, err := NewMemfd("test", int64(16*page))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	m, err := Map(Extent{File: h, Len: 16 * page})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	f, err := h.File("test")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pages := func() int {
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return int(info.Sys().(*syscall.Stat_t).Blocks) * 512 / page
	}
	if err := m.Populate(page+1, 2*page); err != nil { // in three pages
		t.Fatal(err)
	}
	if n := pages(); n != 3 {
		t.Errorf("the file has %d pages, want 3", n)
	}
	m.Bytes()[2*page] = 7
	if err := m.Discard(2*page-1, page+1); err != nil { // one whole page
		t.Fatal(err)
	}
	if n := pages(); n != 2 || m.Bytes()[2*page-1] != 0 {
		t.Errorf("the file has %d pages, want 2", n)
	}
	if m.Bytes()[2*page] != 0 {
		t.Error("what was discarded is still there")
	}
	if m.Populate(15*page, 2*page) == nil || m.Populate(-1, 1) == nil {
		t.Error("populates what is beyond the memory")
	}
}

// A short wait ends in time whatever timer slack the thread has.
func TestBells_waitIsExact(t *testing.T) {
	_, b, _ := newBell(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(before), 0, 0, 0)
	const slack = 5 * time.Second // what is left of it for a busy machine
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for range 5 {
		if _, err := b.Wait(make([]uint32, 8), 100*time.Microsecond); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begin); took > slack {
		t.Errorf("five waits of 100 µs took %v", took)
	}
}

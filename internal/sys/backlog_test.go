package sys

import (
	"net"
	"path/filepath"
	"testing"
)

func TestBacklog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	rc, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want int) {
		t.Helper()
		if n, err := Backlog(rc); n != want || err != nil {
			t.Errorf("%d connections wait, %v; want %d", n, err, want)
		}
	}
	expect(0)
	for i := range 3 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		expect(i + 1)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	expect(2)
	if n, err := countBacklog(1); err == nil {
		t.Errorf("of a socket that is not there: %d", n)
	}
	l.Close()
	if n, err := Backlog(rc); err == nil {
		t.Errorf("of a closed listener: %d", n)
	}
}

// What is no answer is an error and no number.
func FuzzParseDiag(f *testing.F) {
	for _, n := range []int{0, 15, 16, 19, 20, 31, 32, 36} {
		f.Add(make([]byte, n))
	}
	ok := make([]byte, 44)
	ok[32], ok[34], ok[36] = 12, unixDiagRQLen, 7
	f.Add(ok)
	if n, err := parseDiag(ok); n != 7 || err != nil {
		f.Fatal(n, err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := parseDiag(b); err != nil && n != 0 {
			t.Errorf("%d and %v", n, err)
		}
	})
}

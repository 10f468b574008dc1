package cpio

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteTo_fieldsAndOrder(t *testing.T) {
	host := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(host, []byte("abcde"), 0o755); err != nil {
		t.Fatal(err)
	}
	var tree Tree
	tree.Copy("/usr/bin/program", host)
	tree.File("etc/x", 0o640, []byte("1"))
	tree.Symlink("bin", "usr/bin")
	tree.Dir("proc", "etc")
	var b bytes.Buffer
	n, err := tree.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("wrote %d of %d, error %v", n, b.Len(), err)
	}
	want := []string{
		"bin 120777 usr/bin", "etc 40755 ", "etc/x 100640 1", "proc 40755 ",
		"usr 40755 ", "usr/bin 40755 ", "usr/bin/program 100755 abcde", "TRAILER!!! 0 ",
	}
	if got := parse(t, b.Bytes()); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("entries\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var again bytes.Buffer
	if _, err := tree.WriteTo(&again); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("a second archive differs (%v)", err)
	}
}

// parse reads an archive by the field offsets of the format's description.
func parse(t *testing.T, b []byte) []string {
	t.Helper()
	field := func(i int) int {
		n := 0
		for _, c := range b[6+8*i : 6+8*i+8] {
			n = n<<4 | strings.IndexByte("0123456789abcdef", c)
		}
		return n
	}
	octal := func(n int) string {
		s := ""
		for ; n > 0; n >>= 3 {
			s = string(rune('0'+n&7)) + s
		}
		return s + strings.Repeat("0", max(0, 1-len(s)))
	}
	var all []string
	for at := 0; len(b) > 0; {
		if string(b[:6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		const header = 110
		mode, size, nameLen := field(1), field(6), field(11)
		name := string(b[header : header+nameLen-1])
		body := (header + nameLen + 3) &^ 3
		all = append(all, name+" "+octal(mode)+" "+string(b[body:body+size]))
		next := (body + size + 3) &^ 3
		b, at = b[next:], at+next
	}
	return all
}

func TestWriteTo_missingFile(t *testing.T) {
	var tree Tree
	tree.Copy("x", "/nonexistent/file")
	if _, err := tree.WriteTo(&bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "cpio entry x") {
		t.Errorf("error %v", err)
	}
}

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel/xlcfg"
)

func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadFile_pipe(t *testing.T) {
	path := fifo(t)
	go func() {
		time.Sleep(30 * time.Millisecond) // the reader is there first
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		f.WriteString("name = 'a'\n")
		time.Sleep(30 * time.Millisecond)
		f.WriteString("memory = 1\n")
	}()
	src, err := (&app{}).readFile(path)
	if string(src) != "name = 'a'\nmemory = 1\n" || err != nil {
		t.Errorf("read %q, %v", src, err)
	}
}

// A pipe that nobody writes to, and one whose writer falls silent, hold nobody up.
func TestReadPipe_silent(t *testing.T) {
	for _, writes := range []string{"", "half"} {
		path := fifo(t)
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if writes != "" {
			w, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			w.WriteString(writes)
		}
		if src, err := readPipe(f, "domain configuration", 10, 50*time.Millisecond); src != nil || err == nil || !strings.Contains(err.Error(), "nobody wrote a whole domain configuration") {
			t.Errorf("after %q: %q, %v", writes, src, err)
		}
	}
}

func TestXenVersion(t *testing.T) {
	dir := t.TempDir()
	host := func(files map[string]string) string {
		root, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range files {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		return root
	}
	version := map[string]string{"type": "xen\n", "version/major": "4\n", "version/minor": "17\n", "version/extra": ".7\n"}
	kvm := map[string]string{"type": "kvm\n", "version/major": "4\n", "version/minor": "17\n", "version/extra": ".7\n"}
	for _, tt := range []struct {
		files map[string]string
		named string
		want  xlcfg.Version
	}{
		{version, "", xlcfg.Version{Major: 4, Minor: 17, Patch: 7}},
		{version, "4.20.1", xlcfg.Version{Major: 4, Minor: 20, Patch: 1}},
		{kvm, "", xlcfg.Version{}},
		{map[string]string{"type": "xen\n", "version/major": "<denied>\n"}, "", xlcfg.Version{}},
		{nil, "", xlcfg.Version{}},
	} {
		if got, err := xenVersion(tt.named, host(tt.files)); got != tt.want || err != nil {
			t.Errorf("%v, --xen=%q: %v, %v; want %v", tt.files, tt.named, got, err, tt.want)
		}
	}
}

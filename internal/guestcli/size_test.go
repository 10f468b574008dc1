package guestcli_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// maxSize keeps the binary one that nobody minds in an image, in bytes.
const maxSize = 3_500_000

const program = "github.com/xenchan/xenchan/cmd/xenchan-guest"

func TestBinary_isSmallAndStatic(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		file := filepath.Join(t.TempDir(), "xenchan-guest")
		build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, program)
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes", arch, info.Size())
		if info.Size() > maxSize {
			t.Errorf("%s: %d bytes, the limit is %d", arch, info.Size(), maxSize)
		}
		f, err := elf.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s: not static", arch)
			}
		}
		f.Close()
	}
	deps, err := exec.CommandContext(t.Context(), "go", "list", "-deps", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	if bad := regexp.MustCompile(`(?m)^(net/http|crypto/tls|text/template|github.com/spf13/cobra)$`).FindAllString(string(deps), -1); bad != nil {
		t.Errorf("it depends on %v", bad)
	}
}

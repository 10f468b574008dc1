package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/internal/cli"
)

// Each command that help shows has a page, and troff finds nothing wrong with it.
func TestPages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man")
	if err := run([]string{dir}); err != nil {
		t.Fatal(err)
	}
	pages := 1
	for _, c := range cli.Commands().Commands() {
		if !c.Hidden && c.Name() != "help" {
			pages++
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(files) < pages {
		t.Fatalf("%d pages of %d commands, %v", len(files), pages, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(f), ".1")
		if strings.Contains(name, "sim-") {
			t.Errorf("%s is a page of what is internal", f)
		}
		cmd := exec.Command("groff", "-man", "-Tutf8", "-ww", f)
		var warnings strings.Builder
		cmd.Stderr = &warnings
		out, err := cmd.Output()
		if err != nil || warnings.Len() > 0 {
			t.Errorf("groff (package groff-base) on %s: %v\n%s", f, err, &warnings)
		}
		if len(text) < 500 || !strings.Contains(string(text), ".SH EXAMPLE") {
			t.Errorf("%s has no example:\n%s", f, out)
		}
	}
	if err := run(nil); err == nil {
		t.Error("no directory, no error")
	}
}

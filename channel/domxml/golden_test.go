package domxml

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what the tests get to testdata/*.golden")

// report is all that this package says of a file, for people to compare.
func report(name string, src []byte) string {
	var b strings.Builder
	errs := func(kind string, err error) {
		for _, e := range errorsOf(err) {
			fmt.Fprintf(&b, "%s: %v\n%s", kind, e, e.Snippet())
		}
	}
	f, err := Parse(name, src)
	if err != nil {
		errs("error", err)
		return b.String()
	}
	domain, _ := f.DomainName()
	uuid, _ := f.DomainUUID()
	fmt.Fprintf(&b, "name %q uuid %q\n", domain, uuid)
	specs, warnings, err := Stock(f)
	for _, s := range specs {
		fmt.Fprintf(&b, "channel %s:%d:%d: %s\n", s.File, s.Line, s.Col, s.Spec)
	}
	errs("error", err)
	for _, w := range warnings {
		kind := "warning"
		if w.Note {
			kind = "note"
		}
		fmt.Fprintf(&b, "%s: %v\n%s", kind, w, w.Snippet())
	}
	if _, _, served := Channels(f); served != nil && err == nil {
		for _, e := range errorsOf(served) {
			fmt.Fprintf(&b, "not served: %d:%d\n", e.Line, e.Col)
		}
	}
	return b.String()
}

func testFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.xml")
	if err != nil || len(files) < 25 {
		t.Fatalf("testdata has %d files, %v", len(files), err)
	}
	return files
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	src, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func TestGolden(t *testing.T) {
	for _, file := range testFiles(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			got := report(filepath.Base(file), readFile(t, file))
			golden := strings.TrimSuffix(file, ".xml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(readFile(t, golden)), got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

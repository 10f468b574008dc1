package xlcfg

import (
	"errors"
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
	list := func(err error) {
		for _, e := range errorsOf(err) {
			fmt.Fprintf(&b, "error: %v\n%s", e, e.Snippet())
		}
	}
	f, err := Parse(name, src)
	if err != nil {
		list(err)
		return b.String()
	}
	if domain, err := f.DomainName(); err != nil {
		fmt.Fprintf(&b, "name error: %v\n", err)
	} else {
		fmt.Fprintf(&b, "name %s\n", domain)
	}
	if uuid, err := f.DomainUUID(); err != nil {
		fmt.Fprintf(&b, "uuid error: %v\n", err)
	} else if uuid != "" {
		fmt.Fprintf(&b, "uuid %s\n", uuid)
	}
	specs, warnings, err := Channels(f)
	for _, s := range specs {
		fmt.Fprintf(&b, "channel %s:%d:%d: %s\n", s.File, s.Line, s.Col, s.Spec)
	}
	list(err)
	for _, w := range warnings {
		kind := "warning"
		if w.Note {
			kind = "note"
		}
		fmt.Fprintf(&b, "%s: %v\n%s", kind, w, w.Snippet())
	}
	return b.String()
}

func errorsOf(err error) Errors {
	list, _ := errors.AsType[Errors](err)
	return list
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.cfg")
	if err != nil || len(files) < 20 {
		t.Fatalf("testdata has %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := report(filepath.Base(file), src)
			golden := strings.TrimSuffix(file, ".cfg") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

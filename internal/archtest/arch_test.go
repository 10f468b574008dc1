// Package archtest holds no code. Its tests keep the architecture: which package
// may import which, what is fenced in, and how large things may grow.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/xenchan/xenchan"

// tiers are the packages from the bottom up. A package imports only packages of
// lower tiers, so that dependencies point one way. A new package is added here,
// where it belongs.
var tiers = [][]string{
	{"ring", "xen", "xenstore/wire", "channel", "spool", "xenbus", "agent/qga", "agent/mdata", "agent/rfbclip", "agent/vdagent", "internal/sys"},
	{"channel/domcfg", "internal/standin"},
	{"channel/xlcfg", "channel/xlcfg/xlcfgtest", "channel/declared", "agent/firewall", "channel/domxml", "xenstore", "xenstore/storeserver", "xenstore/storetest", "xen/turns", "xen/xentest", "endpoint", "internal/sandbox", "internal/fdstore"},
	{"channel/convert", "guest", "endpoint/unixsock", "endpoint/pty", "endpoint/endpointtest", "xen/xendev", "xen/xensim"},
	{"console", "toolstack", "internal/guestcli"},
	{"internal/daemon", "internal/reconcile", "internal/simguest"},
	{"internal/devicemodel"},
	{"internal/sim", "internal/xl", "internal/bootconfig", "internal/doctor", "internal/watch"},
	{"internal/cli"},
	{"cmd/xenchan", "cmd/xenchan-dm", "cmd/xenchan-guest", "internal/manpages"},
}

// apart are packages that no package of the product imports: tests and the
// tools for them. They may import anything.
var apart = []string{"internal/archtest", "internal/bench", "internal/e2e", "internal/rig", "internal/testreport", "packaging"}

// alone import nothing of ours: they can be understood, and used, by themselves.
var alone = []string{"ring", "xen", "xenstore/wire", "channel", "spool", "xenbus", "agent/qga", "agent/mdata", "agent/rfbclip", "agent/vdagent"}

// never says what a package must not depend on, even through others, and why.
var never = []struct{ pkg, on, why string }{
	{"internal/daemon", "xen/xendev", "the daemon runs on any hypervisor; cli chooses"},
	{"internal/daemon", "xen/xensim", "the daemon runs on any hypervisor; cli chooses"},
	{"internal/reconcile", "internal/daemon", "it works on xenstore alone, beside whichever backend"},
	{"internal/reconcile", "xen/xendev", "it works on xenstore alone"},
	{"console", "xen/xendev", "everything above the seam runs on any hypervisor"},
	{"console", "xen/xensim", "everything above the seam runs on any hypervisor"},
	{"toolstack", "internal/daemon", "the commands need no daemon"},
	{"internal/standin", "xenstore", "each new domain waits for its start"},
	{"xen/xendev", "internal/cli", "imports point downward"},
}

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	TestGoFiles, XTestGoFiles,
	IgnoredGoFiles []string
	Imports []string
	Deps    []string
}

func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func packages(t *testing.T) map[string]pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v (go vet says why)", err)
	}
	all := make(map[string]pkg)
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.name()] = p
	}
	if len(all) < 15 {
		t.Fatalf("go list found only %d packages", len(all))
	}
	return all
}

func isApart(name string) bool {
	return slices.ContainsFunc(apart, func(a string) bool { return name == a || strings.HasPrefix(name, a+"/") })
}

func ours(imports []string) []string {
	var names []string
	for _, i := range imports {
		if name, ok := strings.CutPrefix(i, module+"/"); ok {
			names = append(names, name)
		}
	}
	return names
}

func TestImports_goDownward(t *testing.T) {
	all := packages(t)
	tier := make(map[string]int)
	for n, names := range tiers {
		for _, name := range names {
			if _, ok := all[name]; !ok {
				t.Errorf("tiers name %s, which does not exist", name)
			}
			tier[name] = n
		}
	}
	for name, p := range all {
		if isApart(name) {
			continue
		}
		own, ok := tier[name]
		if !ok {
			t.Errorf("%s has no tier: add it to the drawing in ARCHITECTURE.md and to this test", name)
			continue
		}
		for _, i := range ours(p.Imports) {
			if at, ok := tier[i]; !ok || at >= own {
				t.Errorf("%s imports %s, which is not below it", name, i)
			}
		}
	}
	for _, name := range alone {
		if got := ours(all[name].Imports); len(got) > 0 {
			t.Errorf("%s imports %v; it must not know of the rest", name, got)
		}
	}
	for _, n := range never {
		if slices.Contains(all[n.pkg].Deps, module+"/"+n.on) {
			t.Errorf("%s depends on %s: %s", n.pkg, n.on, n.why)
		}
	}
}

// The raw kernel interface is in one package, and unsafe in files that say so.
func TestFences(t *testing.T) {
	eachFile(t, func(name, path string, f *ast.File, _ *token.FileSet) {
		for _, spec := range f.Imports {
			switch i := strings.Trim(spec.Path.Value, `"`); {
			case i == "unsafe" && !strings.HasSuffix(path, "_unsafe.go"):
				t.Errorf("%s imports unsafe; only *_unsafe.go may", path)
			case i == "golang.org/x/sys/unix" && name != "internal/sys":
				t.Errorf("%s imports x/sys/unix; only internal/sys may", path)
			case i == "C":
				t.Errorf("%s uses cgo", path)
			}
		}
	})
}

func TestPackages_areDocumentedOnce(t *testing.T) {
	docs := make(map[string][]string)
	seen := make(map[string]bool)
	eachFile(t, func(name, path string, f *ast.File, _ *token.FileSet) {
		seen[name] = true
		if f.Doc != nil && !strings.HasSuffix(f.Name.Name, "_test") {
			docs[name] = append(docs[name], filepath.Base(path))
		}
	})
	for name := range seen {
		if len(docs[name]) != 1 {
			t.Errorf("%s has its package comment in %d files %v, want one", name, len(docs[name]), docs[name])
		}
	}
}

// Limits of size keep everything readable in one go.
func TestSizes(t *testing.T) {
	const maxFile, maxFunc = 400, 60
	eachFile(t, func(_, path string, f *ast.File, fset *token.FileSet) {
		if lines := fset.Position(f.FileEnd).Line; lines > maxFile && !strings.HasSuffix(path, "_test.go") {
			t.Errorf("%s has %d lines, the limit is %d: split it by what it is about", path, lines, maxFile)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && !strings.HasSuffix(path, "_test.go") {
				if lines := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line; lines > maxFunc {
					t.Errorf("%s: %s has %d lines, the limit is %d", path, fn.Name.Name, lines, maxFunc)
				}
			}
		}
	})
}

func TestNames_saySomething(t *testing.T) {
	for name := range packages(t) {
		switch last := filepath.Base(name); last {
		case "util", "utils", "common", "helpers", "types", "models", "misc", "base":
			t.Errorf("package %s: a name that says nothing collects everything", name)
		}
	}
}

// eachFile parses every Go file of the module, tests and other platforms included.
func eachFile(t *testing.T, visit func(pkg, path string, f *ast.File, fset *token.FileSet)) {
	t.Helper()
	fset, count := token.NewFileSet(), 0
	for name, p := range packages(t) {
		for _, file := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles, p.IgnoredGoFiles) {
			path := filepath.Join(p.Dir, file)
			f, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			visit(name, fmt.Sprintf("%s/%s", name, file), f, fset)
			count++
		}
	}
	if count < 50 {
		t.Fatalf("only %d files were found", count)
	}
}

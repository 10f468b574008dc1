package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A run of two packages as go test -json tells it: one test fails beside one that
// passes, one has a panic, which ends the others.
const twoPackages = `# go: downloading something
{"Action":"start","Package":"github.com/xenchan/xenchan/a"}
{"Action":"output","Package":"github.com/xenchan/xenchan/a","Output":"rig: Xen is up\n"}
{"Action":"run","Package":"github.com/xenchan/xenchan/a","Test":"TestGood"}
{"Action":"output","Package":"github.com/xenchan/xenchan/a","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"output","Package":"github.com/xenchan/xenchan/a","Test":"TestGood","Output":"    a_test.go:3: all is well\n"}
{"Action":"output","Package":"github.com/xenchan/xenchan/a","Test":"TestGood","Output":"--- PASS: TestGood (0.10s)\n"}
{"Action":"pass","Package":"github.com/xenchan/xenchan/a","Test":"TestGood","Elapsed":0.1}
{"Action":"run","Package":"github.com/xenchan/xenchan/a","Test":"TestBad"}
{"Action":"output","Package":"github.com/xenchan/xenchan/a","Test":"TestBad","Output":"=== RUN   TestBad\n"}
{"Action":"run","Package":"github.com/xenchan/xenchan/a","Test":"TestBad/sub"}
{"Action":"output","Package":"github.com/xenchan/xenchan/a","Test":"TestBad/sub","Output":"    a_test.go:5: the guest reads\n"}
{"Action":"output","Package":"github.com/xenchan/xenchan/a","Test":"TestBad/sub","Output":"        nothing\n"}
{"Action":"output","Package":"github.com/xenchan/xenchan/a","Test":"TestBad/sub","Output":"    a_test.go:9: dump of a console:\n"}
{"Action":"output","Package":"github.com/xenchan/xenchan/a","Test":"TestBad/sub","Output":"        long\n"}
{"Action":"output","Package":"github.com/xenchan/xenchan/a","Test":"TestBad/sub","Output":"    --- FAIL: TestBad/sub (2.00s)\n"}
{"Action":"fail","Package":"github.com/xenchan/xenchan/a","Test":"TestBad/sub","Elapsed":2}
{"Action":"output","Package":"github.com/xenchan/xenchan/a","Test":"TestBad","Output":"--- FAIL: TestBad (2.00s)\n"}
{"Action":"fail","Package":"github.com/xenchan/xenchan/a","Test":"TestBad","Elapsed":2}
{"Action":"output","Package":"github.com/xenchan/xenchan/a","Output":"FAIL\n"}
{"Action":"fail","Package":"github.com/xenchan/xenchan/a","Elapsed":3}
{"Action":"run","Package":"github.com/xenchan/xenchan/b","Test":"TestPanics"}
{"Action":"output","Package":"github.com/xenchan/xenchan/b","Test":"TestPanics","Output":"panic: oh\n"}
{"Action":"output","Package":"github.com/xenchan/xenchan/b","Output":"FAIL\tgithub.com/xenchan/xenchan/b\n"}
{"Action":"fail","Package":"github.com/xenchan/xenchan/b","Elapsed":3}
{"ImportPath":"github.com/xenchan/xenchan/c [github.com/xenchan/xenchan/c.test]","Action":"build-output","Output":"c.go:1: undefined: x\n"}
{"ImportPath":"github.com/xenchan/xenchan/c [github.com/xenchan/xenchan/c.test]","Action":"build-fail"}
{"Action":"output","Package":"github.com/xenchan/xenchan/c","Output":"FAIL\tgithub.com/xenchan/xenchan/c [build failed]\n"}
{"Action":"fail","Package":"github.com/xenchan/xenchan/c"}
`

// report runs a command that prints events and ends with a status.
func report(t *testing.T, r run, events string, status int) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "events")
	if err := os.WriteFile(file, []byte(events), 0o666); err != nil {
		t.Fatal(err)
	}
	got, err := r.command([]string{"sh", "-c", fmt.Sprintf("cat %s; exit %d", file, status)})
	if err != nil || got != status {
		t.Fatalf("status %d, %v", got, err)
	}
	var shown bytes.Buffer
	if failed := showReports(&shown, r.dir, []string{"other", r.name}); (failed != 0) != (status != 0) {
		t.Errorf("-show ends with %d", failed)
	}
	return shown.String()
}

func TestReport_namesWhatFailedAndWhy(t *testing.T) {
	var out bytes.Buffer
	r := run{name: "xen-o", prefix: "xen-o: ", dir: t.TempDir(), lines: 36, out: &out}
	want := `
xen-o failed: 3 times. All that was said is in ` + r.path(".log") + `
--- FAIL: a TestBad/sub (2.0s)
    a_test.go:5: the guest reads
        nothing
--- FAIL: b TestPanics did not end
panic: oh
--- FAIL: c (0.0s)
c.go:1: undefined: x
FAIL	github.com/xenchan/xenchan/c [build failed]
`
	if diff := cmp.Diff(want, report(t, r, twoPackages, 1)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got := out.String(); strings.Contains(got, "all is well") || !strings.Contains(got, "xen-o: rig: Xen is up\n") || !strings.Contains(got, "xen-o:         long\n") {
		t.Errorf("shown were\n%s", got)
	}
	log, err := os.ReadFile(r.path(".log"))
	if err != nil || !strings.Contains(string(log), "a_test.go:3: all is well") {
		t.Errorf("the log is, %v,\n%s", err, log)
	}
}

func TestReport_isShort(t *testing.T) {
	var events strings.Builder
	for i := range 30 {
		for range 20 {
			fmt.Fprintf(&events, `{"Action":"output","Package":"p","Test":"Test%d","Output":"    a_test.go:1: no\n"}`+"\n", i)
		}
		fmt.Fprintf(&events, `{"Action":"fail","Package":"p","Test":"Test%d"}`+"\n", i)
	}
	events.WriteString(`{"Action":"fail","Package":"p"}` + "\n")
	got := report(t, run{name: "many", dir: t.TempDir(), lines: 20, out: io.Discard}, events.String(), 1)
	if n := strings.Count(got, "\n"); n > 22 || !strings.Contains(got, "30 times") || !strings.Contains(got, "more, such as") {
		t.Errorf("%d lines:\n%s", n, got)
	}
}

func TestReport_nothingAfterSuccess(t *testing.T) {
	r := run{name: "good", dir: t.TempDir(), verbose: true, out: io.Discard}
	report(t, r, twoPackages, 1)
	const good = `{"Action":"pass","Package":"p","Test":"TestGood"}` + "\n"
	if got := report(t, r, good, 0); got != "" {
		t.Errorf("it says %q", got)
	}
}

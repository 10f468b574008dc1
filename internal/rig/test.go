package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Times around a test binary: what it gets when it has no limit of its own, what
// it gets beyond its own limit, and what dom0 gets beyond that.
const (
	testLimit = 10 * time.Minute
	testGrace = 15 * time.Second
	dom0Grace = 30 * time.Second
)

// Test is a Go test binary to be run in dom0.
type Test struct {
	Binary string
	Args   []string
	// With are further programs for the test; they are found in its PATH.
	With []string
}

// RunTest runs a test binary in dom0, in a folder with a copy of ./testdata, with
// the environment variables that begin with XENCHAN_, and returns its exit
// status. A binary that outlives its -test.timeout gets SIGQUIT, so that it shows
// its goroutines. When dom0 itself hangs, the machine is stopped and the error
// carries the end of its console. When the binary did not end as one whose tests
// failed, and said why, what the last guests' consoles showed follows on stderr.
// After that, and when ctx ends, all guests are destroyed.
func (r *Rig) RunTest(ctx context.Context, t Test, stdout, stderr io.Writer) (int, error) {
	limit := t.limit() + testGrace
	name := filepath.Base(t.Binary)
	job := Job{
		Script: t.script(name, limit),
		Files:  map[string]string{name: t.Binary},
		Limit:  limit + dom0Grace,
	}
	for _, w := range t.With {
		job.Files[path.Join("bin", filepath.Base(w))] = w
	}
	if exists("testdata") {
		job.Files["testdata"] = "testdata"
	}
	for _, e := range os.Environ() {
		if strings.HasPrefix(e, "XENCHAN_") {
			job.Env = append(job.Env, e)
		}
	}
	status, err := r.Run(ctx, job, stdout, stderr)
	if err == nil {
		return status, nil
	}
	if ctx.Err() != nil {
		_, clean := r.Run(context.WithoutCancel(ctx), Job{Script: destroyGuests, Limit: dom0Grace}, stdout, stderr)
		return status, errors.Join(err, clean)
	}
	err = fmt.Errorf("%s in dom0: %w\n%s", name, err, r.ConsoleTail())
	if down := r.Down(ctx); down != nil {
		err = fmt.Errorf("%w\nand then: %w", err, down)
	}
	return status, err
}

// limit is the binary's own -test.timeout.
func (t Test) limit() time.Duration {
	for _, a := range t.Args {
		if v, ok := strings.CutPrefix(a, "-test.timeout="); ok {
			if d, err := time.ParseDuration(v); err == nil && d > 0 {
				return d
			}
		}
	}
	return testLimit
}

func (t Test) script(name string, limit time.Duration) string {
	words := []string{Quote("./" + name)}
	for _, a := range t.Args {
		words = append(words, Quote(a))
	}
	const logs, lines = 3, 25
	return fmt.Sprintf(`: >.started
timeout -s QUIT -k 10 %[1]d %[2]s
rc=$?
[ $rc = 0 ] && exit 0
[ $rc = 137 ] && echo "rig: killed, it did not end within %[1]d s" >&2
[ $rc = 1 ] || for log in $(find /var/log/xen/console -name 'guest-*.log' -newer .started | xargs -r ls -t | head -n %[3]d); do
	echo "--- end of $log" >&2
	tail -n %[4]d "$log" >&2
done
%[5]sexit $rc
`, int(limit.Seconds()), strings.Join(words, " "), logs, lines, destroyGuests)
}

const destroyGuests = `for domid in $(xenstore-list /local/domain); do
	[ "$domid" = 0 ] || xl destroy "$domid"
done
`

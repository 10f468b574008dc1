package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// module is in front of the names of all packages.
const module = "github.com/xenchan/xenchan/"

// event is one line of go test -json, see `go doc test2json`.
type event struct {
	Action, Package, Test, Output string
	ImportPath                    string // of what was built
	Elapsed                       float64
}

// result is what is known of a test, or of a package outside of its tests.
type result struct {
	pkg, test string
	failed    bool
	ended     bool
	elapsed   float64
	output    []string
}

// seen is what a run of go test has said.
type seen struct {
	out, log io.Writer
	verbose  bool
	results  map[string]*result
	order    []*result
}

func newSeen(out, log io.Writer, verbose bool) *seen {
	return &seen{out: out, log: log, verbose: verbose, results: make(map[string]*result)}
}

// add takes note of an event and shows it, if it is to be shown.
func (s *seen) add(e event) {
	built, _, _ := strings.Cut(e.ImportPath, " ") // "p [p.test]"
	pkg := cmp.Or(e.Package, built)
	id := pkg + " " + e.Test
	r := s.results[id]
	if r == nil {
		r = &result{pkg: strings.TrimPrefix(pkg, module), test: e.Test}
		s.results[id] = r
		s.order = append(s.order, r)
	}
	switch e.Action {
	case "output", "build-output":
		_, _ = io.WriteString(s.log, e.Output)
		r.output = append(r.output, e.Output)
		if s.verbose || e.Test == "" && e.Output != "PASS\n" {
			_, _ = io.WriteString(s.out, e.Output)
		}
	case "pass", "skip":
		r.ended, r.output = true, nil
	case "fail", "build-fail":
		r.ended, r.failed, r.elapsed = true, true, e.Elapsed
		if !s.verbose && e.Test != "" {
			_, _ = io.WriteString(s.out, strings.Join(r.output, ""))
		}
	}
}

// report says in so many lines what failed and why.
func (s *seen) report(name, log string, lines int) string {
	failed := s.failures()
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s failed: %d times. All that was said is in %s\n", name, len(failed), log)
	each := max(3, (lines-2)/max(1, len(failed)))
	for i, r := range failed {
		if (i+1)*each > lines && i > 0 {
			fmt.Fprintf(&b, "and %d more, such as %s\n", len(failed)-i, r.name())
			break
		}
		how := fmt.Sprintf("(%.1fs)", r.elapsed)
		if !r.ended {
			how = "did not end"
		}
		fmt.Fprintf(&b, "--- FAIL: %s %s\n", r.name(), how)
		for _, l := range r.reasons(each - 1) {
			fmt.Fprintln(&b, l)
		}
	}
	return b.String()
}

func (r *result) name() string {
	return strings.TrimSpace(r.pkg + " " + r.test)
}

// failures are the tests that failed or did not end, without those that only had
// others fail; and packages that failed without a test.
func (s *seen) failures() []*result {
	var failed []*result
	for _, r := range s.order {
		switch {
		case r.test == "":
			continue
		case r.failed && (len(r.records()) > 0 || !s.below(r)), !r.ended && s.over(r.pkg):
			failed = append(failed, r)
		}
	}
	for _, r := range s.order {
		if r.test == "" && r.failed && !slices.ContainsFunc(failed, func(f *result) bool { return f.pkg == r.pkg }) {
			failed = append(failed, r)
		}
	}
	return failed
}

// below reports whether a test of r's failed.
func (s *seen) below(r *result) bool {
	return slices.ContainsFunc(s.order, func(o *result) bool {
		return o.pkg == r.pkg && o.failed && strings.HasPrefix(o.test, r.test+"/")
	})
}

// over reports whether a package has failed.
func (s *seen) over(pkg string) bool {
	return slices.ContainsFunc(s.order, func(o *result) bool { return o.pkg == pkg && o.test == "" && o.failed })
}

// said is how a message of a test's begins, and of the runtime's.
var said = regexp.MustCompile(`^\s+[\w.]+\.go:\d+: |^panic: |^fatal error: |^WARNING: DATA RACE|^SIGQUIT`)

// dump is what a message begins with that shows a log: it is no reason.
var dump = regexp.MustCompile(`^\s+[\w.]+\.go:\d+: dump of `)

// records are the messages of a test but for dumps, each with its lines.
func (r *result) records() (all [][]string) {
	inside := false
	for line := range strings.Lines(strings.Join(r.output, "")) {
		line = strings.TrimRight(line, "\n")
		switch {
		case dump.MatchString(line), strings.HasPrefix(line, "=== "), strings.HasPrefix(strings.TrimSpace(line), "--- "):
			inside = false
		case said.MatchString(line):
			all = append(all, []string{line})
			inside = true
		case inside && strings.TrimSpace(line) != "":
			all[len(all)-1] = append(all[len(all)-1], line)
		}
	}
	return all
}

// reasons are the last messages, each cut to some lines, in so many lines; or how
// the output ends.
func (r *result) reasons(lines int) (show []string) {
	const message, stack, widest = 6, 14, 300
	records := r.records()
	for i := len(records) - 1; i >= 0; i-- {
		piece := records[i]
		longest := message
		if !strings.HasPrefix(piece[0], " ") {
			longest = stack
		}
		if keep := min(longest, lines); len(piece) > keep {
			piece = append(slices.Clone(piece[:max(1, keep-1)]), "        …")
		}
		if len(show)+len(piece) > lines && i < len(records)-1 {
			break
		}
		show = append(slices.Clone(piece), show...)
	}
	if len(records) == 0 {
		all := strings.Split(strings.TrimRight(strings.Join(r.output, ""), "\n"), "\n")
		show = all[max(0, len(all)-min(lines, 12)):]
	}
	for i, l := range show {
		if len(l) > widest {
			show[i] = l[:widest] + "…"
		}
	}
	return show
}

// liner writes whole lines, each behind a prefix, so that two runs which write to
// one file do not cut each other's.
type liner struct {
	to     io.Writer
	prefix string
	rest   []byte
}

func (l *liner) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	end := bytes.LastIndexByte(l.rest, '\n') + 1
	if end == 0 {
		return len(p), nil
	}
	var b bytes.Buffer
	for line := range bytes.Lines(l.rest[:end]) {
		b.WriteString(l.prefix)
		b.Write(line)
	}
	l.rest = append([]byte(nil), l.rest[end:]...)
	_, err := l.to.Write(b.Bytes())
	return len(p), err
}

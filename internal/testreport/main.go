// Command testreport runs `go test -json`, shows what it says as text, and ends with
// what failed and why, in few lines: whoever reads only the end of a long log, in
// which two runs may be mixed, still sees it.
//
//	testreport [flags] NAME go test -json …
//	testreport -show NAME…
//
// All that was said is in DIR/NAME.log, what failed in DIR/NAME.failed, which is there
// only after a failure. -show prints the latter for several runs. The exit status is
// that of go test, or of -show 1 when something failed.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	flags := flag.NewFlagSet("testreport", flag.ExitOnError)
	dir := flags.String("dir", ".cache/test", "`DIR` of the logs")
	verbose := flags.Bool("v", false, "show what tests say that pass")
	prefix := flags.Bool("prefix", false, "this is one of several runs at once: put NAME in front of each line, and leave\nthe report to -show")
	lines := flags.Int("lines", 36, "how long the report may be")
	show := flags.Bool("show", false, "only print the reports of earlier runs")
	_ = flags.Parse(os.Args[1:]) // exits
	args := flags.Args()
	if len(args) == 0 || !*show && len(args) < 2 {
		flags.Usage()
		os.Exit(2)
	}
	if *show {
		os.Exit(showReports(os.Stdout, *dir, args))
	}
	r := run{name: args[0], dir: *dir, verbose: *verbose, lines: *lines, out: os.Stdout}
	if *prefix {
		r.prefix = r.name + ": "
	}
	status, err := r.command(args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(max(status, 1))
	}
	os.Exit(status)
}

// run is one go test.
type run struct {
	name, dir, prefix string
	verbose           bool
	lines             int
	out               io.Writer
}

// path is a file of the run's.
func (r run) path(kind string) string { return filepath.Join(r.dir, r.name+kind) }

// command runs go test and returns its exit status.
func (r run) command(args []string) (int, error) {
	if err := os.MkdirAll(r.dir, 0o777); err != nil {
		return 0, err
	}
	if err := os.Remove(r.path(".failed")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	log, err := os.Create(r.path(".log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	// An interrupt at the terminal is for go test too, and ends it.
	signal.Ignore(os.Interrupt, syscall.SIGQUIT)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	s := newSeen(&liner{to: r.out, prefix: r.prefix}, log, r.verbose)
	err = follow(events, s)
	ended := cmd.Wait()
	status := cmd.ProcessState.ExitCode()
	if status == 0 {
		return 0, err
	}
	report := s.report(r.name, r.path(".log"), r.lines)
	if r.prefix == "" {
		_, _ = io.WriteString(r.out, report) // nothing is left to do if that fails
	}
	return status, errors.Join(err, ignoreExit(ended), os.WriteFile(r.path(".failed"), []byte(report), 0o666))
}

// ignoreExit leaves an exit status to be an exit status.
func ignoreExit(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return nil
	}
	return err
}

// follow reads go test's events. A line that is none, as go says before it begins, is
// output of no package.
func follow(events io.Reader, s *seen) error {
	in := bufio.NewReader(events)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			e := event{Action: "output", Output: string(line)}
			if line[0] == '{' {
				e = event{}
				if bad := json.Unmarshal(line, &e); bad != nil {
					return fmt.Errorf("event %q: %w", line, bad)
				}
			}
			s.add(e)
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// showReports prints what failed in several runs, and returns 1 if anything did.
func showReports(out io.Writer, dir string, names []string) int {
	status := 0
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(dir, name+".failed"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		status = 1
		if err != nil {
			text = []byte(err.Error() + "\n")
		}
		_, _ = out.Write(text) // nothing is left to do if that fails
	}
	return status
}

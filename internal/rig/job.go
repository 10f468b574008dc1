package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Job is one thing to be carried out in dom0.
type Job struct {
	// Script is for /bin/sh, in an own empty folder, which is then removed.
	Script string
	// Files are copied into that folder first: name there -> file or folder here.
	Files map[string]string
	// Env is added to dom0's environment; NAME=VALUE.
	Env []string
	// Limit is how long the job may take.
	Limit time.Duration
}

// ErrHung is returned for a job that did not end within its limit, or whose
// machine ended.
var ErrHung = errors.New("dom0 does not answer")

// poll is how often a job's output is looked at.
const poll = 50 * time.Millisecond

// Run carries out a job on the running machine, copies its output while it comes,
// and returns its exit status. Several jobs may run at once, also from other
// processes. When ctx ends, the job is killed.
func (r *Rig) Run(ctx context.Context, j Job, stdout, stderr io.Writer) (status int, err error) {
	id := strconv.FormatInt(time.Now().UnixNano(), 36) + "-" + strconv.Itoa(os.Getpid())
	if err := r.submit(id, j); err != nil {
		return 0, fmt.Errorf("handing a job to dom0: %w", err)
	}
	dir := r.run("share", "job", id)
	out := &tail{file: filepath.Join(dir, "out"), to: stdout}
	errs := &tail{file: filepath.Join(dir, "err"), to: stderr}
	defer out.close()
	defer errs.close()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for deadline := time.Now().Add(j.Limit); ; {
		ended := exists(filepath.Join(dir, "rc"))
		if err := errors.Join(out.copy(), errs.copy()); err != nil {
			return 0, err
		}
		switch {
		case ended:
			return r.finish(dir)
		case !r.alive():
			return 0, fmt.Errorf("%w: the machine ended", ErrHung)
		case time.Now().After(deadline):
			return 0, fmt.Errorf("%w within %v", ErrHung, j.Limit)
		}
		select {
		case <-ctx.Done():
			return 0, errors.Join(ctx.Err(), r.cancel(dir))
		case <-tick.C:
		}
	}
}

// submit makes the job's folder, complete, where dom0 looks for new ones.
func (r *Rig) submit(id string, j Job) error {
	dir := r.run("share", "new", id)
	files := filepath.Join(dir, "files")
	if err := os.MkdirAll(files, 0o777); err != nil {
		return err
	}
	for name, from := range j.Files {
		if err := copyAll(from, filepath.Join(files, name)); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "script"), []byte(j.Script), 0o666); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "run"), []byte(j.wrapper(path.Join(r.inside, "job", id))), 0o666); err != nil {
		return err
	}
	return os.Rename(dir, r.run("share", "in", id))
}

// wrapper is the shell script around a job's own; job is the job's folder as dom0
// sees it. It works in dom0's memory:
// programs run badly from the shared folder, which is not cached.
func (j Job) wrapper(job string) string {
	var b strings.Builder
	work := path.Join("/tmp/job", path.Base(job))
	fmt.Fprintf(&b, "echo $$ > %s/pid\nmkdir -p %s && cd %s || exit 126\n", job, work, work)
	fmt.Fprintf(&b, "cp -a %s/files/. . || exit 126\nexport PATH=%s/bin:$PATH\n", job, work)
	for _, e := range slices.Sorted(slices.Values(j.Env)) {
		name, value, _ := strings.Cut(e, "=")
		fmt.Fprintf(&b, "export %s=%s\n", name, Quote(value))
	}
	fmt.Fprintf(&b, "sh %s/script\nrc=$?\ncd /; rm -rf %s; exit $rc\n", job, work)
	return b.String()
}

// Quote makes one word of the shell out of s.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// finish reads the exit status and removes the job's folder.
func (r *Rig) finish(dir string) (int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "rc"))
	if err != nil {
		return 0, err
	}
	status, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("exit status of a job: %w", err)
	}
	return status, os.RemoveAll(dir)
}

// cancel kills all processes of a job.
func (r *Rig) cancel(dir string) error {
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		return err
	}
	script := "kill -KILL -" + strings.TrimSpace(string(pid))
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	_, err = r.Run(ctx, Job{Script: script, Limit: 10 * time.Second}, io.Discard, io.Discard)
	return err
}

// copyAll copies a file or a folder, following symbolic links.
func copyAll(from, to string) error {
	st, err := os.Stat(from)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return os.CopyFS(to, os.DirFS(from))
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return err
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, st.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}

// tail copies what is appended to a file.
type tail struct {
	file string
	to   io.Writer
	from *os.File // nil until the file is there
}

func (t *tail) copy() error {
	if t.from == nil {
		f, err := os.Open(t.file)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		t.from = f
	}
	_, err := io.Copy(t.to, t.from)
	return err
}

func (t *tail) close() {
	if t.from != nil {
		t.from.Close()
	}
}

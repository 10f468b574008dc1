package rig

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/internal/sys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeDom0 carries jobs out on this machine, as initramfs/dom0.sh does in dom0.
func fakeDom0(t *testing.T) *Rig {
	t.Helper()
	r := &Rig{dir: t.TempDir(), log: io.Discard}
	r.inside = r.run("share")
	if err := r.cleanRun(); err != nil {
		t.Fatal(err)
	}
	alive, err := sys.LockFile(r.run("alive"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(ctx, t, r)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		alive.Close()
	})
	return r
}

func serve(ctx context.Context, t *testing.T, r *Rig) {
	var jobs sync.WaitGroup
	defer jobs.Wait()
	for ctx.Err() == nil {
		entries, err := os.ReadDir(r.run("share", "in"))
		if err != nil {
			t.Error(err)
			return
		}
		for _, e := range entries {
			dir := r.run("share", "job", e.Name())
			if err := os.Rename(r.run("share", "in", e.Name()), dir); err != nil {
				t.Error(err)
			}
			cmd := exec.Command("sh", "-c", "setsid -w sh ./run >out 2>err </dev/null; echo $? >rc.new; mv rc.new rc")
			cmd.Dir = dir
			if err := cmd.Start(); err != nil {
				t.Error(err)
			}
			jobs.Go(func() { _ = cmd.Wait() }) // their status is in rc
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestRun_job(t *testing.T) {
	r := fakeDom0(t)
	src := t.TempDir()
	for name, content := range map[string]string{"tool": "#!/bin/sh\necho tool says \"$1\"\n", "data/deep/x": "content"} {
		file := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	nasty := "it's $HOME; `x` \\ \"quoted\"\n2nd line"
	job := Job{
		Script: `cat testdata/deep/x; echo; printf '%s\n' "$XENCHAN_V"; tool ` + Quote(nasty) + `; echo problem >&2; exit 41`,
		Files:  map[string]string{"bin/tool": filepath.Join(src, "tool"), "testdata": filepath.Join(src, "data")},
		Env:    []string{"XENCHAN_V=" + nasty},
		Limit:  10 * time.Second,
	}
	var stdout, stderr bytes.Buffer
	status, err := r.Run(t.Context(), job, &stdout, &stderr)
	if err != nil || status != 41 {
		t.Errorf("status %d, error %v, want 41", status, err)
	}
	if want := "content\n" + nasty + "\ntool says " + nasty + "\n"; stdout.String() != want {
		t.Errorf("stdout %q, want %q", stdout.String(), want)
	}
	if stderr.String() != "problem\n" {
		t.Errorf("stderr %q", stderr.String())
	}
	if left, err := os.ReadDir(r.run("share", "job")); err != nil || len(left) > 0 {
		t.Errorf("%d jobs left behind, error %v", len(left), err)
	}
}

// notify tells when something is written for the first time.
type notify struct {
	once  sync.Once
	first chan struct{}
}

func (n *notify) Write(p []byte) (int, error) {
	n.once.Do(func() { close(n.first) })
	return len(p), nil
}

func TestRun_outputComesWhileItRuns_cancelKills(t *testing.T) {
	r := fakeDom0(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &notify{first: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		_, err := r.Run(ctx, Job{Script: "echo $$ >" + pidFile + "; echo first; sleep 1000", Limit: time.Minute}, out, io.Discard)
		ended <- err
	}()
	select {
	case <-out.first:
	case err := <-ended:
		t.Fatalf("ended early: %v", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("process %d of the cancelled job lives", pid)
}

func TestRun_hang(t *testing.T) {
	r := fakeDom0(t)
	over := filepath.Join(t.TempDir(), "over")
	_, err := r.Run(t.Context(), Job{Script: "until [ -e " + Quote(over) + " ]; do sleep 0.1; done", Limit: 300 * time.Millisecond}, io.Discard, io.Discard)
	if !errors.Is(err, ErrHung) {
		t.Errorf("a job that does not end gave %v", err)
	}
	if err := os.WriteFile(over, nil, 0o666); err != nil { // the end of the test waits for the job
		t.Fatal(err)
	}
}

func TestRun_deadMachine(t *testing.T) {
	r := &Rig{dir: t.TempDir(), log: io.Discard}
	if err := r.cleanRun(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Run(t.Context(), Job{Limit: time.Minute}, io.Discard, io.Discard); !errors.Is(err, ErrHung) {
		t.Errorf("a job for a machine that does not run gave %v", err)
	}
}

func TestRunTest_limitAndFailure(t *testing.T) {
	if got := (Test{Args: []string{"-test.v", "-test.timeout=90s"}}).limit(); got != 90*time.Second {
		t.Errorf("limit %v, want that of the binary", got)
	}
	if got := (Test{Args: []string{"-test.timeout=0s"}}).limit(); got != testLimit {
		t.Errorf("limit %v for a binary without one", got)
	}
	r := fakeDom0(t)
	binary := filepath.Join(t.TempDir(), "x.test")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\necho \"$#:$2\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	status, err := r.RunTest(t.Context(), Test{Binary: binary, Args: []string{"-test.run=^TestA$", "a b"}}, &out, io.Discard)
	if err != nil || status != 0 || out.String() != "2:a b\n" {
		t.Errorf("status %d, error %v, output %q", status, err, out.String())
	}
}

func TestReserve_isExclusive(t *testing.T) {
	dir := t.TempDir()
	one, two := &Rig{dir: dir}, &Rig{dir: dir}
	release, err := one.Reserve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := two.Reserve(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a reserved machine was reserved again: %v", err)
	}
	other := &Rig{dir: dir, Options: Options{OXenstored: true}}
	if releaseOther, err := other.Reserve(t.Context()); err != nil {
		t.Errorf("the machine of the other kind is not to be had: %v", err)
	} else {
		releaseOther()
	}
	release()
	release, err = two.Reserve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	release()
}

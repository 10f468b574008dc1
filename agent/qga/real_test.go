package qga

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// realAgent starts Debian's agent on a socket of its own. It may not touch the
// machine that the tests run on.
func realAgent(t *testing.T) *Client {
	t.Helper()
	path, err := exec.LookPath("qemu-ga")
	if err != nil {
		t.Fatal("the tests need qemu-ga: apt-get install qemu-guest-agent")
	}
	dir := t.TempDir()
	sock := filepath.Join(dir, "sock")
	cmd := exec.Command(path, "-m", "unix-listen", "-p", sock, "-t", dir, "-f", filepath.Join(dir, "pid"),
		"-b", "guest-shutdown,guest-set-time,guest-suspend-disk,guest-suspend-ram,guest-suspend-hybrid,guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-fsfreeze-thaw,guest-fstrim,guest-set-user-password,guest-set-vcpus,guest-set-memory-blocks")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for {
		conn, err := net.Dial("unix", sock)
		if err == nil {
			c := New(conn)
			t.Cleanup(func() { c.Close() })
			return c
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(err)
		}
	}
}

func TestReal(t *testing.T) {
	c := realAgent(t)
	ctx := t.Context()
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	info, err := c.Info(ctx)
	if err != nil || info.Version == "" || len(info.Commands) < 20 {
		t.Errorf("Info = %+v, %v", info, err)
	}
	os, err := c.OS(ctx)
	if err != nil || os.KernelRelease == "" {
		t.Errorf("OS = %+v, %v", os, err)
	}
	nets, err := c.Interfaces(ctx)
	if err != nil || len(nets) == 0 {
		t.Errorf("Interfaces = %+v, %v", nets, err)
	}
	now, err := c.Time(ctx)
	if err != nil || time.Since(now).Abs() > time.Minute {
		t.Errorf("Time = %v, %v", now, err)
	}
	if s, err := c.FreezeStatus(ctx); err != nil || s != "thawed" {
		t.Errorf("FreezeStatus = %q, %v", s, err)
	}
	err = c.Shutdown(ctx, PowerDown)
	if _, ok := errors.AsType[*Error](err); !ok {
		t.Errorf("Shutdown, which is blocked: %v", err)
	}
	if line, refused, err := c.Raw(ctx, []byte("{\n \"execute\": \"guest-ping\"}")); err != nil || refused || string(line) != "{\"return\": {}}\n" {
		t.Errorf("Raw = %q, %v", line, err)
	}
}

func TestReal_exec(t *testing.T) {
	c := realAgent(t)
	r, err := c.Exec(t.Context(), Command{
		Path: "sh", Args: []string{"-c", "cat; echo $WORD >&2; exit 7"}, Env: []string{"WORD=err", "PATH=/bin:/usr/bin"}, Stdin: []byte("in\x00put"),
	})
	if err != nil || r.ExitCode != 7 || string(r.Stdout) != "in\x00put" || string(r.Stderr) != "err\n" {
		t.Errorf("Exec = %+v, %v", r, err)
	}
	if _, err := c.Exec(t.Context(), Command{Path: "/no/such/program"}); err == nil {
		t.Error("a program that is not there can be run")
	}
	r, err = c.Exec(t.Context(), Command{Path: "sh", Args: []string{"-c", "kill -9 $$"}})
	if err != nil || r.Signal != 9 {
		t.Errorf("killed: %+v, %v", r, err)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil { // until it runs
			if data, err := os.ReadFile(pidFile); err == nil && len(data) > 0 {
				cancel()
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if _, err = c.Exec(ctx, Command{Path: "sh", Args: []string{"-c", "echo $$ >" + pidFile + "; exec sleep 1000"}}); !errors.Is(err, ErrKilled) {
		t.Fatalf("too long: %v", err)
	}
	pid, _ := os.ReadFile(pidFile)
	if _, err := os.Stat("/proc/" + string(bytes.TrimSpace(pid))); err == nil {
		t.Errorf("process %s is still there", pid)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("the call after it: %v", err)
	}
}

func TestReal_copies(t *testing.T) {
	c := realAgent(t)
	want := make([]byte, 1<<20+12345)
	rand.Read(want)
	path := filepath.Join(t.TempDir(), "file")
	var at int64
	progress := func(n int64) { at = n }
	if err := c.Upload(t.Context(), path, bytes.NewReader(want), 0, progress); err != nil || at != int64(len(want)) {
		t.Fatalf("Upload: %v, progress %d", err, at)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes of %d arrived, %v", len(got), len(want), err)
	}
	var got bytes.Buffer
	if err := c.Download(t.Context(), path, &got, 0, progress); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Fatalf("Download: %d bytes of %d, %v", got.Len(), len(want), err)
	}
	// Half-way on, as after a break.
	os.Truncate(path, 500_001)
	if n, err := c.Size(t.Context(), path); err != nil || n != 500_001 {
		t.Fatalf("Size = %d, %v", n, err)
	}
	if err := c.Upload(t.Context(), path, bytes.NewReader(want[500_001:]), 500_001, nil); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, want) {
		t.Error("a resumed upload differs")
	}
	got.Truncate(100_000)
	if err := c.Download(t.Context(), path, &got, 100_000, nil); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("a resumed download: %d bytes, %v", got.Len(), err)
	}
	if err := c.Download(t.Context(), "/no/such/file", &got, 0, nil); err == nil {
		t.Error("a file that is not there can be read")
	}
	// A disk that is full.
	if err := c.Upload(t.Context(), "/dev/full", bytes.NewReader(want), 0, nil); err == nil {
		t.Error("a full disk goes unnoticed")
	}
}

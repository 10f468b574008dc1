package pty_test

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/xenchan/xenchan/endpoint/pty"
)

// TestSocat_bothWays: 16 MiB each way at the same time with a client that is
// not ours.
func TestSocat_bothWays(t *testing.T) {
	if _, err := exec.LookPath("socat"); err != nil {
		t.Fatalf("this test needs socat: apt-get install socat (%v)", err)
	}
	const size = 16 << 20
	e := open(t, pty.Config{})
	up, down := make([]byte, size), make([]byte, size)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(up)
	rng.Read(down)

	socat := exec.Command("socat", "-b65536", "-", e.Path()+",raw,echo=0")
	in, out := pipes(t, socat)
	socat.Stderr = os.Stderr
	if err := socat.Start(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	c := accept(t, e)
	errs := make(chan error, 2)
	go func() { _, err := in.Write(up); errs <- err }()
	go func() { _, err := c.Write(down); errs <- err }()
	fromClient := make(chan [32]byte)
	go func() { fromClient <- checksum(t, c) }()
	if checksum(t, out) != sha256.Sum256(down) {
		t.Error("the client got other bytes than were written to it")
	}
	if <-fromClient != sha256.Sum256(up) {
		t.Error("the client's bytes arrived changed")
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d MiB each way in %v", size>>20, time.Since(begin).Round(time.Millisecond))
	in.Close()
	socat.Wait()
	c.WaitGone()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read: %v, want EOF", err)
	}
}

func checksum(t *testing.T, r io.Reader) (sum [32]byte) {
	h := sha256.New()
	if n, err := io.CopyN(h, r, 16<<20); err != nil {
		t.Errorf("after %d bytes: %v", n, err)
	}
	return [32]byte(h.Sum(nil))
}

func pipes(t *testing.T, cmd *exec.Cmd) (io.WriteCloser, io.Reader) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	return in, out
}

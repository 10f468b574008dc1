package unixsock_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/xenchan/xenchan/endpoint/unixsock"
)

// TestClient_leftWithBytesUnread: the kernel calls that a reset, which must not
// cost the bytes that the client sent.
func TestClient_leftWithBytesUnread(t *testing.T) {
	e := listen(t, unixsock.Config{Path: filepath.Join(t.TempDir(), "a.sock")})
	c := dial(t, e.Path())
	host, err := e.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	io.WriteString(host, "never read")
	io.WriteString(c, "goodbye")
	c.Close()
	if got, err := io.ReadAll(host); string(got) != "goodbye" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestClient_peerCred(t *testing.T) {
	e := listen(t, unixsock.Config{Path: filepath.Join(t.TempDir(), "a.sock")})
	dial(t, e.Path())
	host, err := e.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	pid, uid, gid, err := host.(*unixsock.Client).PeerCred()
	if int(pid) != os.Getpid() || int(uid) != os.Getuid() || int(gid) != os.Getgid() || err != nil {
		t.Errorf("%d, %d, %d, %v", pid, uid, gid, err)
	}
}

// TestSocat_bothWays: socat sends 4 MiB, half-closes, and takes as much; then
// it leaves by itself.
func TestSocat_bothWays(t *testing.T) {
	if _, err := exec.LookPath("socat"); err != nil {
		t.Fatalf("this test needs socat: apt-get install socat (%v)", err)
	}
	e := listen(t, unixsock.Config{Path: filepath.Join(t.TempDir(), "a.sock")})
	up := bytes.Repeat([]byte("to the guest \x00\r\n\xff"), 4<<20/16)
	down := bytes.Repeat([]byte("from the guest\n\n"), 4<<20/16)
	var got bytes.Buffer
	socat := exec.Command("socat", "-t60", "-", "UNIX-CONNECT:"+e.Path())
	socat.Stdin, socat.Stdout, socat.Stderr = bytes.NewReader(up), &got, os.Stderr
	if err := socat.Start(); err != nil {
		t.Fatal(err)
	}
	host, err := e.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error)
	go func() {
		_, err := host.Write(down[:len(down)/2])
		sent <- err
	}()
	read, err := io.ReadAll(host)
	if err != nil || !bytes.Equal(read, up) {
		t.Errorf("read %d bytes, %v", len(read), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if host.Gone() {
		t.Error("socat has only half-closed, but is gone")
	}
	if _, err := host.Write(down[len(down)/2:]); err != nil {
		t.Error(err)
	}
	host.Close()
	if err := socat.Wait(); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got.Bytes(), down) {
		t.Errorf("socat passed on %d bytes", got.Len())
	}
}

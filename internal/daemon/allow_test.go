package daemon_test

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/channel"
)

// An "allow" lets in whom it names, by user, by group, and by supplementary
// group, and nobody else, root neither; whoever is refused is counted and gets no
// byte, though the guest has sent some.
func TestAllow(t *testing.T) {
	r := newRig(t)
	r.daemon()
	r.check(os.Chmod(filepath.Dir(r.dir), 0o755)) // for other users
	for _, c := range []struct {
		allow string
		as    syscall.Credential
		in    bool
	}{
		{"nobody", syscall.Credential{Uid: 65534, Gid: 4711}, true},
		{"65534", syscall.Credential{Uid: 65534, Gid: 4711}, true},
		{"root:@4711", syscall.Credential{Uid: 65534, Gid: 4711}, true},
		{"1234:@4712", syscall.Credential{Uid: 65534, Gid: 4711, Groups: []uint32{4710, 4712}}, true},
		{"nobody", syscall.Credential{Uid: 0, Gid: 0}, false},
		{"root", syscall.Credential{Uid: 0, Gid: 0}, true},
		{"4711:@65534", syscall.Credential{Uid: 65534, Gid: 4711}, false}, // a group is no user
	} {
		name := "to-" + strings.NewReplacer(":", ".", "@", "g").Replace(c.allow) + strconv.Itoa(int(c.as.Uid))
		ch := r.attach(channel.Spec{Name: name, Allow: c.allow})
		front := r.frontend(ch)
		r.connected(ch)
		r.write(<-front.conns, []byte("secret"))
		r.eventually("the socket is there", func() bool { return exists(ch.Path) })
		cmd := exec.Command("socat", "-u", "UNIX-CONNECT:"+ch.Path, "-")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &c.as}
		out, err := cmd.StdoutPipe()
		r.check(err)
		r.check(cmd.Start())
		if c.in {
			r.expect(out, []byte("secret"))
			if row := r.row(ch); row.Refused != 0 || row.Clients != 1 {
				t.Errorf("allow=%s: %+v", c.allow, row)
			}
			cmd.Process.Kill()
		} else {
			if got, err := io.ReadAll(out); len(got) > 0 || err != nil {
				t.Errorf("allow=%s: user %d got %q, %v", c.allow, c.as.Uid, got, err)
			}
			if row := r.row(ch); row.Refused != 1 || row.Clients != 0 || row.Spooled != 6 {
				t.Errorf("allow=%s: %+v", c.allow, row)
			}
		}
		cmd.Wait()
		r.check(r.tools.Detach(t.Context(), r.dom, name))
		front.stop() // or it may take the next channel's device for its own
	}
}

// syncBuffer is a log that is read while it grows.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Who is refused a thousand times does not fill the log.
func TestAllow_logIsBounded(t *testing.T) {
	r := newRig(t)
	var log syncBuffer
	r.log = slog.New(slog.NewTextHandler(&log, nil))
	r.daemon()
	ch := r.attach(channel.Spec{Name: "none", Allow: strconv.Itoa(os.Getuid() + 1)})
	for range 1000 {
		c := r.dial(ch.Path)
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Fatalf("read %d bytes, %v", n, err)
		}
		c.Close()
	}
	r.eventually("all are counted", func() bool { return r.row(ch).Refused == 1000 })
	lines := strings.Count(log.String(), "client refused")
	if lines == 0 || lines > 100 {
		t.Errorf("%d lines of log for 1000 refused clients", lines)
	}
}

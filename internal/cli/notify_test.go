package cli

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The daemon talks to a service manager as sd_notify(3) says: ready, alive, and
// with a reload that systemd 253 takes for one (systemd.service(5), notify-reload).
func TestDaemon_notifies(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "xc")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	host, err := startHost(dir+"/h", os.Environ(), "--no-daemon", repoPath("examples/agent.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	defer stopHost(host, dir+"/h", syscall.SIGTERM)
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/notify", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	config := filepath.Join(dir, "x.toml")
	write := func(text string) {
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	var log bytes.Buffer
	cmd := exec.Command("xenchan", "daemon", "--host", "sim:"+dir+"/h", "--config", config)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+dir+"/notify", "WATCHDOG_USEC=150000")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		if !strings.Contains(log.String(), "msg=reloaded") || !strings.Contains(log.String(), "configuration stays as it is") {
			t.Errorf("the log says\n%s", log.String())
		}
	}()
	until := func(want string) string {
		t.Helper()
		buf := make([]byte, 4096)
		for {
			manager.SetReadDeadline(time.Now().Add(30 * time.Second))
			n, err := manager.Read(buf)
			if err != nil {
				t.Fatalf("no %s: %v", want, err)
			}
			if text := string(buf[:n]); strings.HasPrefix(text, want) {
				return text
			}
		}
	}
	until("READY=1")
	until("WATCHDOG=1")
	for _, text := range []string{"[log]\nlevel = \"debug\"\n", "[log]\nlevel = \"info\"\n", "nonsense"} {
		write(text)
		cmd.Process.Signal(syscall.SIGHUP)
		if got := until("RELOADING=1"); !regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=[0-9]+\n?$`).MatchString(got) {
			t.Errorf("it says %q", got)
		}
		until("READY=1")
	}
	until("WATCHDOG=1")
}

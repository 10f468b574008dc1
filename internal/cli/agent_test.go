package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// blocked is what a real agent of a test must not do to the machine it runs on.
const blocked = "guest-shutdown,guest-set-time,guest-suspend-disk,guest-suspend-ram,guest-suspend-hybrid," +
	"guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-fsfreeze-thaw,guest-fstrim,guest-set-user-password," +
	"guest-set-vcpus,guest-set-memory-blocks"

// obey is an agent in a guest that does as it is told: shut down and reboot are
// what the host sees of them.
func obey(t *testing.T, dir string, do map[string]func()) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "guests/web/xen-channel", agentChannel), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("stty", "-F", f.Name(), "raw", "-echo").CombinedOutput(); err != nil {
		t.Fatalf("stty: %v: %s", err, out)
	}
	t.Cleanup(func() { f.Close() })
	id := regexp.MustCompile(`"id":(\d+)`)
	go func() { // ends with the terminal
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if m := id.FindStringSubmatch(lines.Text()); m != nil {
				fmt.Fprintf(f, "\xff{\"return\": %s}\n", m[1])
			}
			for word, f := range do {
				if strings.Contains(lines.Text(), word) {
					f()
				}
			}
		}
	}()
}

func exitCodeOf(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return exitDone
}

func TestAgent_shutdown(t *testing.T) {
	dir := newHost(t, "name = \"web\"\nchannel = [ \"connection=socket,name=org.qemu.guest_agent.0\" ]\n")
	obey(t, dir, map[string]func(){
		`"mode":"reboot"`: func() { exec.Command("xenchan", "reboot", "web", "--host", "sim:"+dir).Run() },
	})
	xenchan(t, dir, "agent", "web", "reboot")
	attached := xenchan(t, dir, "attach", "web", "connection=socket,name="+agentChannel, "--wait", "-o", "json")
	if !strings.Contains(attached, `"domid": 2`) {
		t.Fatalf("the domain after its reboot: %s", attached)
	}
	// The agent of the new one does nothing at all about it.
	obey(t, dir, nil)
	out, err := exec.Command("xenchan", "agent", "web", "shutdown", "--within", "500ms", "--host", "sim:"+dir).CombinedOutput()
	if code := exitCodeOf(err); code != exitTimeout || !strings.Contains(string(out), "was told to powerdown, and has not after 500ms") {
		t.Errorf("exit status %d: %s", code, out)
	}
}

//go:build xen

package realhost

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// A guest on real Xen gets its seed at its first boot, by what the unit xenchan-config
// runs, and a secret once; it says when it is done, and whoever waits for it goes on.
func TestConfig(t *testing.T) {
	startDaemon(t).ready()
	const name = "org.xenchan.config.0"
	g := startHelper(t, xlguest.Config{Agent: true})
	attach(t, g.Name(), "connection=socket,name="+name)
	xenchan(t, "wait", g.Name(), "--channel", name, "--timeout", "3m")

	dir := t.TempDir()
	user := "#cloud-config\n" + strings.Repeat("# what takes more than a ring has room for\n", 300)
	for file, text := range map[string]string{"user": user, "pw": "s3cret"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	serve := exec.Command("xenchan", "config", "serve", g.Name(), "--user-data", filepath.Join(dir, "user"), "--secret", "pw="+filepath.Join(dir, "pw"), "--timeout", "10m")
	var log strings.Builder
	serve.Stdout, serve.Stderr = &log, &log
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	defer serve.Process.Kill()
	if got := g.Run(`mkdir -p /run; xenchan-guest setup && xenchan-guest config fetch --timeout 3m --to /seed &&
xenchan-guest config get pw --timeout 3m; echo; xenchan-guest config get pw --timeout 3m 2>&1; true`); got != "s3cret\nxenchan-guest: the host has no pw\n" {
		t.Errorf("the guest says %q", got)
	}
	if got := g.Run("cat /seed/user-data"); got != user {
		t.Errorf("user-data has %d bytes in the guest, want %d", len(got), len(user))
	}
	if got := g.Run("cat /seed/meta-data"); !strings.Contains(got, `"local-hostname":"`+g.Name()+`"`) {
		t.Errorf("meta-data is %q", got)
	}
	g.Run("xenchan-guest config done --timeout 3m")
	xenchan(t, "wait", g.Name(), "--for", "configured", "--timeout", "3m")
	if err := serve.Wait(); err != nil {
		t.Errorf("config serve: %v", err)
	}
	t.Logf("config serve:\n%s", &log)
	if receipts := xenchan(t, "config", "receipts", g.Name()); !strings.Contains(receipts, "pw") {
		t.Errorf("the receipts are %q", receipts)
	}
}

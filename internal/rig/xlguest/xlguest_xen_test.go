//go:build xen

package xlguest

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestGuest_runsScripts(t *testing.T) {
	note := filepath.Join(t.TempDir(), "note")
	content := bytes.Repeat([]byte("from dom0\n"), 1000)
	if err := os.WriteFile(note, content, 0o644); err != nil {
		t.Fatal(err)
	}
	g := Start(t, Config{Files: map[string]string{"/etc/note": note}})
	if got := g.Run("uname -s"); got != "Linux\n" {
		t.Errorf("uname said %q", got)
	}
	if got := g.Run("cat /etc/note"); got != string(content) {
		t.Errorf("file in the guest is %d bytes, want %d", len(got), len(content))
	}
	script := "for i in 1 2; do\n echo \"line '$i'\"\ndone\necho $((40+2)) >&2\nexit 3\n" + strings.Repeat("# long\n", 2000)
	out, status, err := g.Exec(t.Context(), script)
	if err != nil || status != 3 || out != "line '1'\nline '2'\n42\n" {
		t.Errorf("script gave %q, status %d, error %v", out, status, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, _, err := g.Exec(ctx, "sleep 1000"); err == nil {
		t.Error("a script that sleeps for ever was answered")
	}
	g.Destroy()
	if out, err := XL(t.Context(), "domid", g.Name()); err == nil {
		t.Errorf("after destroy it is still domain %s", out)
	}
}

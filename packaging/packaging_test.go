package packaging

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// run runs a program that must be there and must succeed, and returns all it says.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("this test needs %s: apt-get install --no-install-recommends systemd (%v)", name, err)
	}
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestInputs reads what the tools read, so that go test knows when it has changed.
func TestInputs(t *testing.T) {
	for _, file := range []string{"xenchan.service", "xenchan.sysusers", "xenchan.rules", "xenchan.toml", "xenchan-guest.service", "xenchan-qemu-ga.service", "xenchan-config.service", "xenchan-guest.rules", "../Makefile"} {
		if _, err := os.ReadFile(file); err != nil {
			t.Error(err)
		}
	}
}

// maxExposure is the worst that systemd may say of the unit, of 10.
const maxExposure = 1.5

func TestUnit_exposure(t *testing.T) {
	// The tool exits with 1 even for a good unit when it says what is left open.
	out, _ := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--no-pager", "xenchan.service").CombinedOutput()
	m := regexp.MustCompile(`exposure level for xenchan.service: ([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("systemd-analyze, of the Debian package systemd, gives no level:\n%s", out)
	}
	got, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil || got > maxExposure {
		t.Errorf("the exposure is %s, want at most %v:\n%s", m[1], maxExposure, out)
	}
	t.Logf("exposure level %v", got)
}

// makeInstall is `make install` of a program that does nothing.
func makeInstall(t *testing.T, vars ...string) {
	t.Helper()
	bin := t.TempDir()
	for _, name := range []string{"xenchan", "xenchan-dm"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n# "+name+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "make", append([]string{"-C", "..", "install", "BINARY=" + bin + "/xenchan", "DM=" + bin + "/xenchan-dm"}, vars...)...)
}

// What is installed verifies, but for a word that Debian 12's systemd does not know.
func TestUnit_verify(t *testing.T) {
	dir := t.TempDir()
	makeInstall(t, "PREFIX="+dir, "SYSCONFDIR="+dir+"/etc")
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", dir+"/lib/systemd/system/xenchan.service").CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "xenchan.service:12: Failed to parse service type, ignoring: notify-reload") {
			t.Errorf("systemd-analyze verify says %q", line)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// What a guest gets verifies, and starts what was installed.
func TestInstallGuest(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(t.TempDir(), "xenchan-guest")
	if err := os.WriteFile(bin, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "make", "-C", "..", "install-guest", "GUEST_BINARY="+bin, "PREFIX="+dir)
	units := filepath.Join(dir, "lib/systemd/system")
	out := run(t, "systemd-analyze", "verify", "--man=no", units+"/xenchan-guest.service", units+"/xenchan-qemu-ga.service", units+"/xenchan-config.service")
	if out != "" {
		t.Errorf("systemd-analyze verify says %q", out)
	}
	for _, unit := range []string{"xenchan-guest", "xenchan-qemu-ga", "xenchan-config"} {
		text, err := os.ReadFile(filepath.Join(units, unit+".service"))
		if err != nil || !strings.Contains(string(text), "\nExecStart="+dir+"/bin/xenchan-guest ") {
			t.Errorf("the unit %s does not start what was installed: %v\n%s", unit, err, text)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "lib/udev/rules.d/60-xenchan-guest.rules")); err != nil {
		t.Error(err)
	}
}

func TestInstall(t *testing.T) {
	dest := t.TempDir()
	// Before it was a program, it was a link.
	if err := cmp.Or(os.MkdirAll(dest+"/usr/local/bin", 0o755), os.Symlink("xenchan", dest+"/usr/local/bin/xenchan-dm")); err != nil {
		t.Fatal(err)
	}
	makeInstall(t, "DESTDIR="+dest, "PREFIX=/usr/local")
	if text, err := os.ReadFile(dest + "/usr/local/bin/xenchan"); !strings.Contains(string(text), "# xenchan\n") {
		t.Errorf("something else is in the place of xenchan: %q, %v", text, err)
	}
	for path, mode := range map[string]os.FileMode{
		"/usr/local/bin/xenchan":                          0o755,
		"/usr/local/bin/xenchan-dm":                       0o755,
		"/usr/local/lib/systemd/system/xenchan.service":   0o644,
		"/usr/local/lib/sysusers.d/xenchan.conf":          0o644,
		"/usr/local/lib/udev/rules.d/60-xenchan.rules":    0o644,
		"/etc/xenchan/xenchan.toml":                       0o644,
		"/usr/local/share/doc/xenchan/examples/agent.cfg": 0o644,
	} {
		if info, err := os.Stat(dest + path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want mode %v", path, info, err, mode)
		}
	}
	unit, err := os.ReadFile(dest + "/usr/local/lib/systemd/system/xenchan.service")
	if err != nil || !strings.Contains(string(unit), "\nExecStart=/usr/local/bin/xenchan daemon ") {
		t.Errorf("the unit does not start what was installed: %v\n%s", err, unit)
	}
	// A configuration that is there is somebody's own.
	own := dest + "/etc/xenchan/xenchan.toml"
	if err := os.WriteFile(own, []byte("# mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	makeInstall(t, "DESTDIR="+dest, "PREFIX=/usr/local")
	if got, err := os.ReadFile(own); string(got) != "# mine\n" || err != nil {
		t.Errorf("make install has overwritten the configuration: %q, %v", got, err)
	}
}

func TestSysusers(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	conf, err := filepath.Abs("xenchan.sysusers")
	if err != nil {
		t.Fatal(err)
	}
	run(t, "systemd-sysusers", "--root="+root, conf)
	for _, file := range []string{"/etc/passwd", "/etc/group"} {
		if got, err := os.ReadFile(root + file); err != nil || !strings.HasPrefix(string(got), "xenchan:x:") {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
}

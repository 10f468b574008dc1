// Package xlguest starts and drives stock Linux guests with xl, for Go tests
// that run in the rig's dom0 (see package rig): Debian's kernel, a busybox
// userland, and a conversation over the Xen console.
package xlguest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/rig/cpio"
	"github.com/xenchan/xenchan/xen"
)

// Files of the rig's dom0 that guests boot from.
const (
	kernel       = "/boot/vmlinux"
	plainImage   = "/boot/guest.cpio"
	agentImage   = "/boot/guest-ga.cpio"
	systemdImage = "/boot/guest-systemd.cpio"
)

// Patience is how long anything is waited for that takes seconds on a quiet machine:
// under emulation, beside other machines, it may take many times that.
const Patience = 4 * time.Minute

// Config says what a guest is like. The zero value is a PV guest with 128 MiB,
// one virtual CPU and no device but its console.
type Config struct {
	// Name is the domain's; "" takes the test's name.
	Name string
	// PVH makes the guest PVH instead of PV.
	PVH bool
	// Agent takes the image with qemu-ga and the /dev/xen drivers.
	Agent bool
	// Systemd takes the image with Debian's systemd and udev, and qemu-ga.
	Systemd bool
	// MemoryMiB and VCPUs default to 128 and 1.
	MemoryMiB, VCPUs int
	// Kernel is further arguments of the kernel's; rig_init=none has the image with
	// systemd do without it.
	Kernel string
	// Extra is further lines of the configuration, such as channel = […].
	Extra string
	// Files are put into the guest: path there -> file in dom0. A program
	// named /payload becomes the guest's first process, and then Run and Wait
	// cannot be used.
	Files map[string]string
}

// XL runs xl and returns what it printed on standard output.
func XL(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "xl", args...)
	// xl leaves processes behind that keep its output open.
	cmd.WaitDelay = time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("xl %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), err
}

// WriteConfig writes the guest's xl.cfg, and its image if it has files of its
// own, into a folder of the test, and returns the configuration's path.
func WriteConfig(t testing.TB, c Config) string {
	t.Helper()
	dir := t.TempDir()
	image := plainImage
	if c.Agent {
		image = agentImage
	}
	if c.Systemd {
		image = systemdImage
	}
	if len(c.Files) > 0 {
		var err error
		if image, err = addFiles(image, filepath.Join(dir, "guest.cpio"), c.Files); err != nil {
			t.Fatalf("guest image: %v", err)
		}
	}
	lines := []string{
		"name = " + quote(c.name(t)),
		"memory = " + strconv.Itoa(orDefault(c.MemoryMiB, 128)),
		"vcpus = " + strconv.Itoa(orDefault(c.VCPUs, 1)),
		"kernel = " + quote(kernel),
		"ramdisk = " + quote(image),
		"extra = " + quote("console=hvc0 quiet mitigations=off cryptomgr.notests rodata=off "+c.Kernel),
	}
	if c.PVH {
		// Emulated SVM reports rdtscp wrongly, so Xen must not intercept it.
		lines = append(lines, `type = "pvh"`, `tsc_mode = "native"`)
	}
	lines = append(lines, c.Extra, "")
	file := filepath.Join(dir, "guest.cfg")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o666); err != nil {
		t.Fatal(err)
	}
	return file
}

func (c Config) name(t testing.TB) string {
	if c.Name != "" {
		return c.Name
	}
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, t.Name())
}

func quote(s string) string { return `"` + s + `"` }

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// addFiles writes image and the files as one ramdisk to file.
func addFiles(image, file string, files map[string]string) (string, error) {
	base, err := os.ReadFile(image)
	if err != nil {
		return "", err
	}
	var tree cpio.Tree
	for name, from := range files {
		tree.Copy(name, from)
	}
	out, err := os.Create(file)
	if err != nil {
		return "", err
	}
	defer out.Close()
	if _, err := out.Write(base); err != nil {
		return "", err
	}
	if _, err := tree.WriteTo(out); err != nil {
		return "", err
	}
	return file, out.Close()
}

// Guest is a domain that xl made.
type Guest struct {
	t    testing.TB
	name string
	con  *console
}

// Start creates a guest and waits for its userspace. At the end of the test the
// guest is destroyed, and its console is shown if the test failed.
func Start(t testing.TB, c Config) *Guest {
	t.Helper()
	g := Create(t, c)
	g.Wait("GUEST UP")
	return g
}

// Create is Start without the waiting; xl create is given args too.
func Create(t testing.TB, c Config, args ...string) *Guest {
	t.Helper()
	g := &Guest{t: t, name: c.name(t)}
	t.Cleanup(g.end)
	g.create(c, args...)
	return g
}

func (g *Guest) create(c Config, args ...string) {
	g.t.Helper()
	file := WriteConfig(g.t, c)
	if _, err := XL(g.t.Context(), slices.Concat([]string{"create", "-q"}, args, []string{file})...); err != nil {
		g.t.Fatal(err)
	}
	g.Attach()
}

// Shared is a guest that is started once and handed on from test to test, also
// to those of other test binaries: a boot takes longer than most tests. Its name
// comes from c, which has no Files and no Extra. A test leaves it as it found it:
// it runs, and has no channel; or it destroys it. One whose test failed is destroyed.
func Shared(t testing.TB, c Config) *Guest {
	t.Helper()
	if len(c.Files) > 0 || c.Extra != "" {
		t.Fatal("a shared guest is like others")
	}
	c.Name = "shared"
	if c.PVH {
		c.Name += "-pvh"
	}
	if c.Agent {
		c.Name += "-agent"
	}
	g := &Guest{t: t, name: c.Name}
	t.Cleanup(func() {
		if t.Failed() {
			g.end()
		} else if g.con != nil {
			g.con.close()
		}
	})
	if _, err := XL(t.Context(), "domid", g.name); err == nil {
		g.Attach()
		return g
	}
	g.create(c)
	g.Wait("GUEST UP")
	return g
}

// Adopt takes a domain that something else made, and destroys it at the end of the
// test. A running guest has to be asked for something (Run) before it shows anything.
func Adopt(t testing.TB, name string) *Guest {
	t.Helper()
	g := &Guest{t: t, name: name}
	t.Cleanup(g.end)
	g.Attach()
	return g
}

// Reboot has xl reboot the domain, and waits until the new one answers.
func (g *Guest) Reboot() {
	g.t.Helper()
	old := g.DomID().String()
	if _, err := XL(g.t.Context(), "reboot", g.name); err != nil {
		g.t.Fatal(err)
	}
	for end := time.Now().Add(Patience); ; time.Sleep(200 * time.Millisecond) {
		if out, err := XL(g.t.Context(), "domid", g.name); err == nil && strings.TrimSpace(out) != old {
			break
		}
		if time.Now().After(end) {
			g.t.Fatalf("%s does not reboot", g.name)
		}
	}
	g.Reattach()
}

// Attach opens the console again, as is needed when the domain has a new number.
func (g *Guest) Attach() {
	g.t.Helper()
	if err := g.attach(); err != nil {
		g.t.Fatalf("console of %s: %v", g.name, err)
	}
}

func (g *Guest) attach() error {
	g.t.Helper()
	if g.con != nil {
		g.con.close()
		g.con = nil
	}
	con, err := openConsole(g.DomID())
	if err != nil {
		return err
	}
	g.con = con
	return nil
}

// Reattach is Attach for a guest that runs already, as after xl restore, or boots. It
// waits until the guest answers: xenconsoled may close a console that is opened very
// early once more.
func (g *Guest) Reattach() {
	g.t.Helper()
	var err error
	for end := time.Now().Add(Patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = g.attach(); err == nil {
			ctx, cancel := context.WithTimeout(g.t.Context(), Patience/4)
			_, _, err = g.Exec(ctx, ":")
			cancel()
		}
		if err == nil {
			return
		}
		g.t.Logf("%s does not answer yet: %v", g.name, err)
	}
	g.t.Fatalf("%s does not answer: %v", g.name, err)
}

// end is what remains to be done when the test is over.
func (g *Guest) end() {
	ctx := context.Background() // the test's own is done
	if g.t.Failed() {
		domains, err := XL(ctx, "list")
		said, errs := XL(ctx, "dmesg")
		Dump(g.t, "Xen's log and the domains", fmt.Sprintln(said, domains, errors.Join(err, errs)))
	}
	if _, err := XL(ctx, "domid", g.name); err == nil {
		if _, err := XL(ctx, "destroy", g.name); err != nil {
			g.t.Errorf("at the end of the test: %v", err)
		}
	}
	if g.con == nil {
		return
	}
	g.con.close()
	if g.t.Failed() {
		Dump(g.t, "the console of "+g.name, g.con.text())
	}
}

// Dump logs the end of a log that explains a failure. The report of a test run
// leaves out what is said so.
func Dump(t testing.TB, what, text string) {
	t.Helper()
	const lines = 60
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	t.Logf("dump of %s, its last %d lines of %d:\n%s", what, min(lines, len(all)), len(all), strings.Join(all[max(0, len(all)-lines):], "\n"))
}

// Name is the domain's name.
func (g *Guest) Name() string { return g.name }

// DomID asks xl for the domain's number.
func (g *Guest) DomID() xen.DomID {
	g.t.Helper()
	out, err := XL(g.t.Context(), "domid", g.name)
	if err != nil {
		g.t.Fatal(err)
	}
	id, err := xen.ParseDomID(strings.TrimSpace(out))
	if err != nil {
		g.t.Fatal(err)
	}
	return id
}

// Destroy destroys the domain as xl destroy does: at once.
func (g *Guest) Destroy() {
	g.t.Helper()
	if _, err := XL(g.t.Context(), "destroy", g.name); err != nil {
		g.t.Fatal(err)
	}
}

// Console is what the guest's console has shown so far.
func (g *Guest) Console() string { return g.con.text() }

// Wait waits until the console has shown text, and fails the test otherwise.
func (g *Guest) Wait(text string) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), Patience)
	defer cancel()
	_, err := g.con.wait(ctx, func(all string) (string, bool) { return "", strings.Contains(all, text) })
	if err != nil {
		g.t.Fatalf("guest %s did not show %q: %v", g.name, text, err)
	}
}

//go:build xen

package realhost

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// libvirtd starts libvirt's daemon, whose driver for Xen wants to know the CPU: of
// the models that it knows none lacks vme, as the emulated one does.
func libvirtd(t *testing.T) {
	t.Helper()
	const oldest = "/usr/share/libvirt/cpu_map/x86_486.xml"
	model, err := os.ReadFile(oldest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(oldest, regexp.MustCompile(`.*vme.*\n`).ReplaceAll(model, nil), 0o644); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(t.TempDir(), "libvirtd.conf")
	text := "unix_sock_group = \"root\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, line := range map[string]string{"/etc/passwd": "root:x:0:0::/root:/bin/sh\n", "/etc/group": "root:x:0:\n"} {
		if err := os.WriteFile(path, []byte(line), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var log strings.Builder
	cmd := exec.Command("libvirtd", "--config", conf)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			xlguest.Dump(t, "libvirtd's log", log.String())
		}
	})
	eventually(t, "libvirt's driver for Xen answers", func() bool {
		return exec.Command("virsh", "-c", "xen:///system", "version").Run() == nil
	})
}

func virsh(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "virsh", append([]string{"-q", "-c", "xen:///system"}, args...)...)
}

const libvirtDomain = `<domain type='xen'>
  <name>virt</name>
  <memory unit='MiB'>128</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='xenpv'>linux</type>
    <kernel>/boot/vmlinux</kernel>
    <initrd>/boot/guest.cpio</initrd>
    <cmdline>console=hvc0 quiet mitigations=off cryptomgr.notests rodata=off</cmdline>
  </os>
  <devices>
    <emulator>/usr/bin/xenchan-dm</emulator>
    <console type='pty'><target type='xen' port='0'/></console>
    <channel type='unix'><source mode='bind' path='/run/virt.sock'/><target type='xen' name='org.example.socket.0'/></channel>
    <channel type='pty'><target type='xen' name='org.example.pty.0'/></channel>
  </devices>
</domain>
`

// A domain of libvirt's has its channels from xenchan too, and there is no QEMU.
func TestLibvirt(t *testing.T) {
	libvirtd(t)
	startDaemon(t).ready()
	divertQEMU(t)
	run(t, "xenstore-write", "/local/domain/0/device-model", "") // libxl leaves it behind
	before := xenstoreLS(t)
	file := filepath.Join(t.TempDir(), "virt.xml")
	if err := os.WriteFile(file, []byte(libvirtDomain), 0o644); err != nil {
		t.Fatal(err)
	}
	virsh(t, "define", file)
	defer virsh(t, "undefine", "virt")
	check := func(g *xlguest.Guest, when string) {
		t.Helper()
		rows := connected(t, "virt", "org.example.socket.0", "org.example.pty.0")
		if n := qemus(t); n > 0 {
			t.Errorf("%s: %d QEMU processes run", when, n)
		}
		echoEverywhere(g, 2)
		echo(t, client(t, "/run/virt.sock"), 64<<10)
		tty := rows["org.example.pty.0"].TTY
		echo(t, client(t, tty), 16<<10)
		xml := virsh(t, "dumpxml", "virt")
		if !strings.Contains(xml, "<source path='"+tty+"'/>") {
			t.Errorf("%s: virsh dumpxml does not show the terminal %s:\n%s", when, tty, xml)
		}
	}
	virsh(t, "start", "virt")
	g := xlguest.Adopt(t, "virt")
	g.Wait("GUEST UP")
	check(g, "started")
	if state := strings.TrimSpace(virsh(t, "domstate", "virt")); state != "running" {
		t.Errorf("virsh domstate: %q", state)
	}
	saved := filepath.Join(t.TempDir(), "saved")
	virsh(t, "save", "virt", saved)
	virsh(t, "restore", saved)
	g.Reattach()
	check(g, "restored")
	virsh(t, "destroy", "virt")
	nothingLeft(t, "virt", before)
}

// Libvirt's own conversions of a domain keep the channels that xenchan sees in it.
func TestLibvirt_conversions(t *testing.T) {
	libvirtd(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	channels := func(file string) string {
		t.Helper()
		var all []struct{ Name, Connection, Path string }
		if err := json.Unmarshal([]byte(xenchan(t, "check", file, "-o", "json")), &all); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%+v", all)
	}
	const want = "[{Name:org.example.socket.0 Connection:socket Path:/run/virt.sock} {Name:org.example.pty.0 Connection:pty Path:}]"
	xml := write("virt.xml", libvirtDomain)
	ours := write("ours.cfg", "name = \"virt\"\nmemory = 128\nkernel = \"/boot/vmlinux\"\n"+xenchan(t, "convert", xml, "--to", "xl"))
	for what, file := range map[string]string{
		"ours of libvirt's XML":                      xml,
		"libvirt's xl.cfg of its XML":                write("theirs.cfg", virsh(t, "domxml-to-native", "xen-xl", xml)),
		"our xl.cfg of libvirt's XML":                ours,
		"libvirt's XML of our xl.cfg of its own XML": write("back.xml", virsh(t, "domxml-from-native", "xen-xl", ours)),
	} {
		if got := channels(file); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
}

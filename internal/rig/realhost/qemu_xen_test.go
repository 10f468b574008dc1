//go:build xen

package realhost

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// theQEMU is where Debian's libxl looks for its QEMU.
const theQEMU = "/usr/libexec/xen-qemu-system-i386"

// divertQEMU puts xenchan-dm in the place of Xen's QEMU, as dpkg-divert does: for all
// domains, and for those of libvirt, which looks at <emulator> for HVM alone.
func divertQEMU(t *testing.T) {
	t.Helper()
	if err := errors.Join(os.Rename(theQEMU, theQEMU+".distrib"), os.Symlink(installDeviceModel(t), theQEMU)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Rename(theQEMU+".distrib", theQEMU); err != nil {
			t.Error(err)
		}
	})
}

// In the place of QEMU it gives way to the real one where a domain needs that: from the
// start, and with the same arguments, or when libxl adds a device later; then the daemon
// keeps the channels.
func TestDeviceModel_realQEMU(t *testing.T) {
	startDaemon(t).ready()
	divertQEMU(t)
	for _, c := range []struct {
		name, device, why string
		channels          channel.Server
	}{
		{"p9", `p9 = [ "tag=t,path=/tmp,security_model=none" ]`, "9pfs/0 (9pfs)", channel.ServerQEMU},
		{"qusb", `usbctrl = [ "type=qusb,version=2,ports=4" ]`, "vusb/0 (qusb)", channel.ServerDaemon},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := xlguest.Create(t, xlguest.Config{Name: c.name, Extra: stockConfig("", t.TempDir()) + "\n" + c.device}, "-p")
			pid := strings.TrimSpace(run(t, "xenstore-read", fmt.Sprintf("/local/domain/%v/image/device-model-pid", g.DomID())))
			eventually(t, "its device model is the real QEMU", func() bool {
				exe, err := os.Readlink(filepath.Join("/proc", pid, "exe"))
				return err == nil && exe == theQEMU+".distrib"
			})
			line, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
			if err != nil {
				t.Fatal(err)
			}
			if its := strings.Contains(string(line), "libxl-channel1"); its != (c.channels == channel.ServerQEMU) {
				t.Errorf("QEMU's arguments: %q", line)
			}
			log, err := os.ReadFile("/var/log/xen/qemu-dm-" + c.name + ".log")
			if err != nil || strings.Count(string(log), "only QEMU serves its device "+c.why) != 1 {
				t.Errorf("the log: %s, %v", log, err)
			}
			eventually(t, "who serves the channel is told", func() bool {
				return list(t, c.name)["org.example.socket.0"].ServedBy == c.channels
			})
			if out, err := exec.Command("xenchan", "doctor", c.name).Output(); !strings.Contains(string(out), "only QEMU serves its device "+c.why) {
				t.Errorf("doctor: %v\n%s", err, out)
			}
			g.Destroy()
		})
	}
}

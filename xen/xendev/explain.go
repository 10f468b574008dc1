package xendev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/xenchan/xenchan/internal/sys"
)

// modules are the kernel modules that make the devices.
var modules = map[string]string{
	sys.EvtchnDevice:   "xen-evtchn",
	sys.GntdevDevice:   "xen-gntdev",
	sys.GntallocDevice: "xen-gntalloc",
}

// hypervisorType is where the kernel says which hypervisor it runs on.
var hypervisorType = "/sys/hypervisor/type"

// explain adds to an error about a device what to do about it; other errors stay
// as they are.
func explain(err error) error {
	path, ok := errors.AsType[*fs.PathError](err)
	if !ok || modules[path.Path] == "" {
		return err
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: try again as root, or as a user whose group has the device (docs/install.md)", err)
	case !OnXen():
		return fmt.Errorf("%w: this machine is not a Xen domain", err)
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("%w: load its driver: modprobe %s", err, modules[path.Path])
	}
	return err
}

// OnXen reports whether this machine is a domain of Xen, whether or not its drivers
// are loaded.
func OnXen() bool {
	kind, err := os.ReadFile(hypervisorType)
	return err == nil && strings.TrimSpace(string(kind)) == "xen"
}

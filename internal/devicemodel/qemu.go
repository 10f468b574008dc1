package devicemodel

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// served are the kinds of backends, as in their path, that only a QEMU serves.
var served = []string{"qdisk", "vfb", "9pfs", "qusb", "virtio_disk"}

// PV is the request that libxl makes for a domain without an emulated machine.
func PV(dom xen.DomID) Request { return Request{DomID: dom, Machine: machinePV} }

// NeedsQEMU says why a domain must have a real QEMU, or "" if its channels are all
// that it has one for. Libxl has written all its devices before it starts one.
func NeedsQEMU(ctx context.Context, r xenstore.Reader, req Request) (why string, err error) {
	if req.Probe {
		return "", nil
	}
	if req.Machine != machinePV {
		return fmt.Sprintf("it is to emulate the machine %q", req.Machine), nil
	}
	v := xenstore.NewValues(ctx, r)
	root := fmt.Sprintf("/libxl/%v/device", req.DomID)
	for _, kind := range v.List(root) {
		devices := v.List(root + "/" + kind)
		nodes := make([]string, len(devices))
		for i, dev := range devices {
			nodes[i] = fmt.Sprintf("%s/%s/%s/backend", root, kind, dev)
		}
		v.Prefetch(nodes...)
		for i, dev := range devices {
			backend := v.Get(nodes[i])
			rest, ok := strings.CutPrefix(backend, "/local/domain/0/backend/")
			if !ok {
				continue // another domain's
			}
			by, _, _ := strings.Cut(rest, "/")
			if slices.Contains(served, by) || by == "vkbd" && v.Get(backend+"/backend-type") == "qemu" {
				return fmt.Sprintf("only QEMU serves its device %s/%s (%s)", kind, dev, by), v.Err()
			}
		}
	}
	return "", v.Err()
}

// Diverted is what dpkg-divert puts behind the name of a file that gives way to
// another one.
const Diverted = ".distrib"

// QEMUs are the places where distributions have Xen's QEMU, the first that is
// there counts.
var QEMUs = []string{
	"/usr/lib/xen/bin/qemu-system-i386",       // Xen's own
	"/usr/libexec/xen/bin/qemu-system-i386",   // Fedora
	"/usr/libexec/xen-qemu-system-i386",       // Debian
	"/usr/local/lib/xen/bin/qemu-system-i386", // Xen from its sources
	"/usr/bin/qemu-system-i386",
	"/usr/bin/qemu-system-x86_64",
}

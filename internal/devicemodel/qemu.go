package devicemodel

import (
	"context"
	"fmt"

	"github.com/xenchan/xenchan/internal/standin"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore"
)

// NeedsQEMU says why a domain must have a real QEMU, or "" if its channels are all
// that it has one for.
func NeedsQEMU(ctx context.Context, r xenstore.Reader, req standin.Request) (why string, err error) {
	if req.Probe {
		return "", nil
	}
	if req.Machine != standin.MachinePV {
		return fmt.Sprintf("it is to emulate the machine %q", req.Machine), nil
	}
	return toolstack.NeedsQEMU(ctx, r, req.DomID)
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

package toolstack

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// QEMUBackends are the kinds of backends, as in their path, that only a QEMU serves.
var QEMUBackends = []string{"qdisk", "vfb", "9pfs", "qusb", "virtio_disk"}

// NeedsQEMU says why a domain without an emulated machine must have a real QEMU, or ""
// if its channels are all that it has one for. Libxl has written most of its devices
// before it starts one; but USB controllers, and shared directories since Xen 4.19, only
// then (libxl_create.c, device_type_tbl), and more may be plugged in.
func NeedsQEMU(ctx context.Context, r xenstore.Reader, dom xen.DomID) (why string, err error) {
	v := xenstore.NewValues(ctx, r)
	root := fmt.Sprintf("/libxl/%v/device", dom)
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
			if slices.Contains(QEMUBackends, by) || by == "vkbd" && v.Get(backend+"/backend-type") == "qemu" {
				return fmt.Sprintf("only QEMU serves its device %s/%s (%s)", kind, dev, by), v.Err()
			}
		}
	}
	return "", v.Err()
}

package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore"
)

// checkDeviceModel says which device model a domain has, and why.
func checkDeviceModel(ctx context.Context, tools *toolstack.Toolstack, domain string) []Finding {
	d, err := tools.Resolve(ctx, domain)
	if err != nil {
		return nil // it has just gone
	}
	r := &report{subject: d.Name}
	v := xenstore.NewValues(ctx, tools.Store)
	for _, node := range []string{"name", "path"} {
		primary := fmt.Sprintf("/libxl/%v/device/console/0/%s", d.ID, node)
		if value, ok := v.Lookup(primary); ok {
			r.add("primary-console-named", Failed, "xenstore-rm "+primary+"; give a channel another devid, as attach does",
				"the primary console (devid 0) has a %s, %q: it is no channel, and libxl refuses one like that", node, value)
		}
	}
	pid, ok := v.Lookup(fmt.Sprintf("/local/domain/%v/image/device-model-pid", d.ID))
	if !ok {
		r.add("no-device-model", OK, "", "the domain has no device model, as it needs none")
		return r.findings
	}
	name := programOf(pid)
	switch {
	case name == "":
		r.add("device-model-gone", Warning, "see /var/log/xen/qemu-dm-"+d.Name+".log",
			"the device model of the domain, process %s, is gone; what it served is dead", pid)
	case strings.HasPrefix(name, "xenchan"):
		r.add("stand-in", OK, "", "its device model is xenchan-dm (process %s), for its channels alone", pid)
	default:
		checkQEMU(ctx, r, tools.Store, d, fmt.Sprintf("%s (process %s)", name, pid))
	}
	return r.findings
}

// checkQEMU says whether a domain's QEMU is there for more than channels.
func checkQEMU(ctx context.Context, r *report, store *xenstore.Store, d toolstack.Domain, qemu string) {
	v := xenstore.NewValues(ctx, store)
	if v.Get(fmt.Sprintf("/libxl/%v/type", d.ID)) == "hvm" {
		r.add("qemu", OK, "", "its device model is %s, as each HVM domain has one", qemu)
		return
	}
	why, err := toolstack.NeedsQEMU(ctx, store, d.ID)
	switch {
	case err != nil:
		r.add("qemu", OK, "", "its device model is %s", qemu)
	case why != "":
		r.add("qemu", OK, "", "its device model is %s: %s", qemu, why)
	default:
		r.add("qemu-for-channels", Warning, `put device_model_override = "/usr/bin/xenchan-dm" into its configuration, and make it anew`,
			"its device model is %s, which is there for its channels alone", qemu)
	}
}

// programOf is the name of the program that a process runs; empty if there is none.
func programOf(pid string) string {
	if exe, err := os.Readlink(filepath.Join("/proc", filepath.Base(pid), "exe")); err == nil {
		return strings.TrimSuffix(filepath.Base(exe), " (deleted)")
	}
	// Another user's process has only its arguments to show.
	cmdline, err := os.ReadFile(filepath.Join("/proc", filepath.Base(pid), "cmdline"))
	if err != nil {
		return ""
	}
	program, _, _ := strings.Cut(string(cmdline), "\x00")
	if program == "" {
		return "" // it has ended, and nobody has asked how
	}
	return filepath.Base(program)
}

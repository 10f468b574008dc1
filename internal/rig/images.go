package rig

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// sources are all files that decide what is in the images and how they are
// started, so that a change of any of them makes new ones.
//
//go:embed packages.go kernel.go stage.go images.go boot.go cpio/cpio.go initramfs/*.sh
var sources embed.FS

// Names of the files in an image folder. The first three are what the emulator
// boots; the guests' files are in dom0's /boot too.
const (
	hypervisorFile = "xen.elf"
	kernelFile     = "vmlinux"
	dom0File       = "dom0.cpio"
	guestFile      = "guest.cpio"
	agentFile      = "guest-ga.cpio"
	systemdFile    = "guest-systemd.cpio"
)

// sourceKey names this version of the builder.
func sourceKey() (string, error) {
	h := sha256.New()
	err := fs.WalkDir(sources, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := sources.ReadFile(p)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n%s", p, len(data), data)
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)[:8]), err
}

// Build makes the images if they are not there for the packages that apt would
// download now and this version of the builder, and returns their folder.
// Caller holds the lock of dir.
func (r *Rig) build(ctx context.Context) (string, error) {
	if err := checkTools(); err != nil {
		return "", err
	}
	packages, err := resolve(ctx)
	if err != nil {
		return "", fmt.Errorf("resolving Debian packages (is apt-get update done?): %w", err)
	}
	h := sha256.New()
	for _, p := range packages {
		fmt.Fprintln(h, p.name, p.digest)
	}
	root := filepath.Join(r.dir, "root-"+hex.EncodeToString(h.Sum(nil)[:8]))
	images := filepath.Join(r.dir, "image-"+r.key+"-"+hex.EncodeToString(h.Sum(nil)[:8]))
	if exists(images) {
		return images, nil
	}
	if !exists(root) {
		r.logf("downloading and unpacking %d Debian packages", len(packages))
		if err := unpack(ctx, root, packages); err != nil {
			return "", err
		}
	}
	r.logf("making the images")
	tmp := images + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	if err := os.MkdirAll(tmp, 0o777); err != nil {
		return "", err
	}
	if err := makeImages(ctx, root, tmp); err != nil {
		return "", fmt.Errorf("making the rig's images: %w", err)
	}
	if err := os.Rename(tmp, images); err != nil {
		return "", err
	}
	return images, r.forget(root, images)
}

// forget removes what earlier builds left; a machine that runs has its images
// in memory.
func (r *Rig) forget(keep ...string) error {
	for _, pattern := range []string{"root-*", "image-*"} {
		old, err := filepath.Glob(filepath.Join(r.dir, pattern))
		if err != nil {
			return err
		}
		for _, o := range old {
			if o != keep[0] && o != keep[1] {
				if err := os.RemoveAll(o); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

// makeImages fills the folder out from the packages unpacked below root.
func makeImages(ctx context.Context, root, out string) error {
	kernels, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if err != nil {
		return err
	}
	if len(kernels) != 1 {
		return fmt.Errorf("%d kernels in the packages", len(kernels))
	}
	version := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	mods := filepath.Join(root, "lib/modules", version)
	err = uncompressHypervisor(filepath.Join(root, "boot/xen-"+xenVersion+"-amd64.gz"), filepath.Join(out, hypervisorFile))
	if err != nil {
		return err
	}
	if err := uncompressKernel(ctx, kernels[0], filepath.Join(out, kernelFile)); err != nil {
		return err
	}
	if err := makeGuest(root, mods, filepath.Join(out, guestFile)); err != nil {
		return err
	}
	if err := makeAgentGuest(root, mods, filepath.Join(out, agentFile)); err != nil {
		return err
	}
	if err := makeSystemdGuest(root, mods, filepath.Join(out, systemdFile)); err != nil {
		return err
	}
	return makeDom0(root, mods, version, out)
}

// xenModules are the drivers behind /dev/xen and /proc/xen.
var xenModules = []string{"xen_evtchn", "xen_gntdev", "xen_gntalloc", "xen_privcmd", "xenfs"}

// makeGuest makes the small guest: a stock kernel and busybox.
func makeGuest(root, mods, file string) error {
	s, err := newStage(root, mods, "guest.sh")
	if err != nil {
		return err
	}
	return s.write(file)
}

// makeAgentGuest makes the guest with the real QEMU guest agent, and with what a
// driver domain needs.
func makeAgentGuest(root, mods, file string) error {
	s, err := newStage(root, mods, "guest.sh")
	if err != nil {
		return err
	}
	if err := s.program("usr/sbin/qemu-ga"); err != nil {
		return err
	}
	if err := s.module(xenModules...); err != nil {
		return err
	}
	return s.write(file)
}

// systemdUnits are those of Debian's systemd that a system with udev needs, and what
// wants them there.
var systemdUnits = map[string]string{
	"multi-user.target": "", "basic.target": "", "sysinit.target": "", "sockets.target": "", "local-fs.target": "",
	"local-fs-pre.target": "", "swap.target": "", "paths.target": "", "slices.target": "", "timers.target": "",
	"getty.target": "multi-user.target", "serial-getty@.service": "", "shutdown.target": "", "umount.target": "",
	"systemd-udevd.service": "sysinit.target", "systemd-udev-trigger.service": "sysinit.target",
	"systemd-udevd-control.socket": "sockets.target", "systemd-udevd-kernel.socket": "sockets.target",
}

// rigService is the first process of other guests as a service.
const rigService = `[Service]
ExecStart=/init
StandardInput=tty-force
StandardOutput=tty
TTYPath=/dev/console
`

// makeSystemdGuest makes the guest with systemd, udev, the guest agent and SPICE's agent of
// Debian.
func makeSystemdGuest(root, mods, file string) error {
	s, err := newStage(root, mods, "guest.sh")
	if err != nil {
		return err
	}
	const lib, etc = "usr/lib/systemd/", "etc/systemd/system/"
	err = s.program(lib+"systemd", lib+"system-generators/systemd-getty-generator", "usr/bin/systemctl", "usr/bin/udevadm", "usr/sbin/qemu-ga", "usr/sbin/spice-vdagentd", "usr/bin/socat")
	if err != nil {
		return err
	}
	s.tree.Symlink(lib+"systemd-udevd", "../../bin/udevadm")
	for unit, wantedBy := range systemdUnits {
		if err := s.put(lib + "system/" + unit); err != nil {
			return err
		}
		if wantedBy != "" {
			s.tree.Symlink(etc+wantedBy+".wants/"+unit, "/"+lib+"system/"+unit)
		}
	}
	if err := s.putDir("lib/udev/rules.d"); err != nil {
		return err
	}
	s.tree.File(etc+"rig.service", 0o644, []byte(rigService))
	s.tree.Symlink(etc+"multi-user.target.wants/rig.service", "../rig.service")
	s.tree.Symlink(etc+"default.target", "/"+lib+"system/multi-user.target")
	s.tree.Symlink(etc+"serial-getty@hvc0.service", "/dev/null") // the console is the rig's
	s.tree.File("etc/machine-id", 0o444, []byte("00000000000000000000000000000001\n"))
	return s.write(file)
}

// makeDom0 makes dom0's root file system, which holds the guests' images.
func makeDom0(root, mods, version, out string) error {
	s, err := newStage(root, mods, "dom0.sh")
	if err != nil {
		return err
	}
	s.tree.Dir("rig", "run/xen", "var/log/xen/console", "var/lib/xen/dump", "var/lib/xenstored", "etc/xen/scripts")
	if err := s.xenTools(); err != nil {
		return err
	}
	if err := s.deviceModel(); err != nil {
		return err
	}
	if err := s.libvirt(); err != nil {
		return err
	}
	if err := s.module(slices.Concat(xenModules, []string{"virtio_pci", "9pnet_virtio", "9p"})...); err != nil {
		return err
	}
	// HVM guests boot a bzImage, PV and PVH ones the faster ELF image.
	if err := s.putAs("boot/vmlinuz", "boot/vmlinuz-"+version); err != nil {
		return err
	}
	for _, f := range []string{kernelFile, guestFile, agentFile, systemdFile} {
		s.tree.Copy("boot/"+f, filepath.Join(out, f))
	}
	return s.write(filepath.Join(out, dom0File))
}

// xenTools adds the toolstack, both xenstored, and tools to look with.
func (s *stage) xenTools() error {
	const bin = "usr/lib/xen-" + xenVersion + "/bin"
	for _, p := range []string{
		"xl", "libxl-save-helper", "xenstored", "oxenstored", "xenconsoled", "xenconsole",
		"xen-init-dom0", "vchan-socket-proxy", "lsevtchn", "xenstore-control",
	} {
		if err := s.program(path.Join(bin, p)); err != nil {
			return err
		}
		s.tree.Symlink("usr/bin/"+p, path.Join("../lib/xen-"+xenVersion+"/bin", p))
	}
	for _, p := range []string{"ls", "read", "write", "chmod", "rm", "list", "exists", "watch"} {
		if err := s.program("usr/bin/xenstore-" + p); err != nil {
			return err
		}
	}
	if err := s.program("usr/bin/socat", "usr/bin/strace"); err != nil {
		return err
	}
	if err := s.putDir("etc/xen/scripts"); err != nil {
		return err
	}
	return s.put("etc/xen/xl.conf", "etc/xen/oxenstored.conf", "usr/lib/xen-"+xenVersion+"/boot/hvmloader")
}

// deviceModel adds the QEMU that xl starts for HVM guests and for channels. It
// exits without its keymaps, whatever the guest.
func (s *stage) deviceModel() error {
	if err := s.program("usr/libexec/xen-qemu-system-i386"); err != nil {
		return err
	}
	if err := s.putDir("usr/share/qemu/keymaps"); err != nil {
		return err
	}
	for _, f := range []string{"vgabios-cirrus.bin", "vgabios-stdvga.bin"} {
		s.tree.Symlink("usr/share/qemu/"+f, "../seabios/"+f)
	}
	return s.put("usr/share/qemu/linuxboot.bin", "usr/share/qemu/linuxboot_dma.bin", "usr/share/qemu/kvmvapic.bin",
		"usr/share/seabios/bios-256k.bin", "usr/share/seabios/vgabios-cirrus.bin", "usr/share/seabios/vgabios-stdvga.bin")
}

// libvirt adds libvirt's daemon with its driver for Xen, and its command.
func (s *stage) libvirt() error {
	const driver = "usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_libxl.so"
	if err := s.program("usr/sbin/libvirtd", "usr/bin/virsh", driver); err != nil {
		return err
	}
	return s.putDir("usr/share/libvirt/cpu_map")
}

package rig

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// xenVersion is the Xen of Debian 12, for which the rig is made.
const xenVersion = "4.17"

// wanted are the Debian packages whose programs go into the images.
var wanted = []string{
	"xen-utils-" + xenVersion, "xen-hypervisor-" + xenVersion + "-amd64", "qemu-system-xen",
	"qemu-guest-agent", "socat", "strace", "busybox-static", "systemd", "udev",
	"libvirt-daemon", "libvirt-daemon-driver-xen", "libvirt-clients",
}

// alone are packages without their dependencies, most of which are a desktop: what their
// programs in the images need comes with others.
var alone = []string{"spice-vdagent"}

// unneeded are dependencies of which no file goes into the images.
var unneeded = regexp.MustCompile(`^(python3|perl|iso-codes|ipxe|usrmerge|debconf|libpython|libperl|dpkg|tar$|` +
	`adduser|passwd|ucf|media-types|sensible|init-system|libfile-find|libnumber|libtext-glob)`)

// hostTools are the programs that building and running need, with the Debian
// package of each.
var hostTools = map[string]string{
	"apt-get": "apt", "apt-cache": "apt", "dpkg-deb": "dpkg", "xz": "xz-utils",
	emulator: "qemu-system-x86",
}

// checkTools names all missing tools at once, with the command that installs them.
func checkTools() error {
	var missing []string
	for tool, pkg := range hostTools {
		if _, err := exec.LookPath(tool); err != nil && !slices.Contains(missing, pkg) {
			missing = append(missing, pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("the rig needs Debian packages that are not installed: apt-get install --no-install-recommends %s",
		strings.Join(missing, " "))
}

// archive is one package file as apt would download it now.
type archive struct {
	name   string // NAME=VERSION, as apt-get takes it
	digest string // file name, size and checksum; no place where it comes from
}

// resolve asks apt for the exact package files: the dependency closure of
// wanted as if nothing were installed, those alone, and the newest kernel.
func resolve(ctx context.Context) ([]archive, error) {
	out, err := output(ctx, "", "apt-get", append([]string{
		"-s", "-o", "Dir::State::status=/dev/null",
		"--no-install-recommends", "install",
	}, wanted...)...)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "Inst" && !unneeded.MatchString(f[1]) {
			names = append(names, f[1]+"="+strings.TrimPrefix(f[2], "("))
		}
	}
	kernel, err := kernelPackage(ctx)
	if err != nil {
		return nil, err
	}
	names = append(append(names, kernel), alone...)
	slices.Sort(names)
	out, err = output(ctx, "", "apt-get", append([]string{"download", "--print-uris"}, names...)...)
	if err != nil {
		return nil, err
	}
	var digests []string
	for line := range strings.Lines(string(out)) {
		// 'URI' FILE SIZE CHECKSUM
		if f := strings.Fields(line); len(f) == 4 {
			digests = append(digests, strings.Join(f[1:], " "))
		}
	}
	slices.Sort(digests)
	if len(digests) != len(names) {
		return nil, fmt.Errorf("apt-get knows %d of %d packages", len(digests), len(names))
	}
	all := make([]archive, len(names))
	for i := range names {
		all[i] = archive{names[i], digests[i]}
	}
	return all, nil
}

// kernelPackage is the package that Debian's kernel metapackage stands for.
func kernelPackage(ctx context.Context) (string, error) {
	out, err := output(ctx, "", "apt-cache", "depends", "linux-image-amd64")
	if err != nil {
		return "", err
	}
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() {
		if _, name, ok := strings.Cut(sc.Text(), "Depends: linux-image-"); ok {
			return "linux-image-" + strings.TrimSpace(name), nil
		}
	}
	return "", errors.New("apt-cache knows no dependency of linux-image-amd64; is apt-get update done?")
}

// unpack downloads the packages and unpacks them below root, which appears only
// when it is complete.
func unpack(ctx context.Context, root string, packages []archive) error {
	tmp := root + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	debs := filepath.Join(tmp, "debs")
	if err := os.MkdirAll(debs, 0o777); err != nil {
		return err
	}
	args := []string{"download", "-q", "-o", "APT::Sandbox::User=root"}
	for _, p := range packages {
		args = append(args, p.name)
	}
	if _, err := output(ctx, debs, "apt-get", args...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	if len(files) != len(packages) {
		return fmt.Errorf("apt-get downloaded %d of %d packages", len(files), len(packages))
	}
	for _, f := range files {
		if _, err := output(ctx, "", "dpkg-deb", "-x", f, filepath.Join(tmp, "root")); err != nil {
			return err
		}
	}
	if err := os.Rename(filepath.Join(tmp, "root"), root); err != nil {
		return err
	}
	return os.RemoveAll(tmp)
}

// output runs a program and returns its standard output; its error carries what
// the program said.
func output(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", name, args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/devicemodel"
	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
)

// DeviceModelName is the name under which the binary is a device model.
const DeviceModelName = "xenchan-dm"

// libxlUserData is where libxl keeps what it knows of domains.
const libxlUserData = "/var/lib/xen"

// firewallPoll is how often a device model looks whether the rules have changed:
// libxl's SIGHUP tells it something else.
const firewallPoll = 3 * time.Second

const deviceModelHelp = `xenchan-dm stands in for the QEMU that libxl starts for a PV or PVH domain because
of its channels. It is not for people to run: xl starts it, when a domain's
configuration says

  device_model_override = "/usr/bin/xenchan-dm"

and xl and libvirt for all domains, when it stands where they look for QEMU.

A domain that needs a QEMU for more than channels gets the real one: the first of
$XENCHAN_QEMU and
`

// IsDeviceModel tells from the name that the binary was started with whether it is
// to be a device model: libxl starts a QEMU by its whole path.
func IsDeviceModel(name string) bool {
	return filepath.Base(name) == DeviceModelName || slices.Contains(devicemodel.QEMUs, name)
}

// DeviceModel is [Main] as a device model: it takes the command line
// that libxl has for a QEMU, and stays until the domain ends.
func DeviceModel(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 || slices.Contains(args, "--help") || slices.Contains(args, "-help") {
		fmt.Fprint(stdout, deviceModelHelp)
		for _, path := range devicemodel.QEMUs {
			fmt.Fprintln(stdout, "  "+path)
		}
		return exitDone
	}
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	if err := a.deviceModel(ctx, args); err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", DeviceModelName, printable(err.Error()))
		return exitStatus(err)
	}
	return exitDone
}

func (a *app) deviceModel(ctx context.Context, args []string) error {
	request, err := devicemodel.Parse(args)
	if err != nil {
		return usageError{err}
	}
	w, err := a.locate()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(a.stderr, nil))
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	hangup := make(chan struct{})
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	go func() { // ends with the process
		<-hup
		close(hangup)
	}()
	config := devicemodel.Config{
		Request: request, RunDir: w.runDir(), UserData: libxlUserData, Hangup: hangup, Log: log,
		Hypervisor: func(ctx context.Context) (xen.Hypervisor, error) { return a.openHypervisor(ctx, w, 0) },
	}
	if request.Probe {
		return devicemodel.Run(ctx, config)
	}
	if config.Store, err = a.openStore(ctx, w); err != nil {
		return err
	}
	defer config.Store.Close()
	why, err := devicemodel.NeedsQEMU(ctx, config.Store, request)
	if err != nil {
		return err
	}
	if why != "" {
		return execQEMU(log, why, args)
	}
	if err := sys.NoPreempt(); err != nil {
		log.Debug("libxl and xenstored are interrupted more than need be", "error", err)
	}
	rules := openFirewall(w.firewallDir(), log)
	config.Firewall = rules.Current
	go rules.poll(ctx, firewallPoll)
	// QMP sockets and all else that is made are for root alone.
	syscall.Umask(0o077)
	return devicemodel.Run(ctx, config)
}

// execQEMU becomes the QEMU that the domain needs.
func execQEMU(log *slog.Logger, why string, args []string) error {
	var places []string
	if path := os.Getenv("XENCHAN_QEMU"); path != "" {
		places = []string{path}
	} else {
		for _, path := range devicemodel.QEMUs {
			places = append(places, path+devicemodel.Diverted, path)
		}
	}
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return err
	}
	for _, path := range places {
		if info, err := os.Stat(path); err != nil || info.IsDir() || os.SameFile(info, self) {
			continue
		}
		log.Info("this domain gets the real QEMU", "why", why, "qemu", path)
		return fmt.Errorf("exec %s: %w", path, syscall.Exec(path, append([]string{path}, args...), os.Environ()))
	}
	return errors.Join(fmt.Errorf("this domain needs a real QEMU: %s", why),
		fmt.Errorf("none is installed at %v: install the package with Xen's QEMU, or name it in XENCHAN_QEMU", places))
}

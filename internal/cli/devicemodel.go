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
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/devicemodel"
	"github.com/xenchan/xenchan/internal/standin"
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
	restore := args[0] == standin.RestoreLost
	if restore {
		args = args[1:]
	}
	request, err := standin.Parse(args)
	if err != nil {
		return usageError{err}
	}
	log := slog.New(slog.NewTextHandler(a.stderr, nil))
	if !request.Probe && request.Machine != standin.MachinePV {
		return execQEMU(log, fmt.Sprintf("it is to emulate the machine %q", request.Machine), args)
	}
	// The small program (package standin) becomes this one, and keeps its name.
	_ = os.WriteFile("/proc/self/comm", []byte(DeviceModelName), 0)
	w, err := a.locate()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	m := deviceModel{app: a, where: w, args: args, Config: devicemodel.Config{
		Request: request, RunDir: w.runDir(), UserData: libxlUserData, Log: log,
		HasQEMU:    func() error { _, err := findQEMU(); return err },
		Hypervisor: func(ctx context.Context) (xen.Hypervisor, error) { return a.openHypervisor(ctx, w, 0) },
	}}
	if restore {
		return m.restoreLost(ctx)
	}
	for { // until it is a QEMU, if the domain has come to need one
		if err := m.run(ctx); !errors.Is(err, standin.ErrQEMU) {
			return err
		}
	}
}

// deviceModel is one of a domain, or of none, when libxl asks what it can do.
type deviceModel struct {
	devicemodel.Config
	app   *app
	where where
	args  []string
}

func (m *deviceModel) run(ctx context.Context) error {
	// QMP sockets and all else that is made are for root alone.
	syscall.Umask(0o077)
	loop := &standin.Loop{Request: m.Request, RunDir: m.RunDir, Log: func(what string) { m.Log.Info(what) }}
	if err := loop.Listen(); err != nil {
		return err
	}
	defer loop.Close()
	m.Loop = loop
	hangup := make(chan struct{})
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	go func() { // ends with the process
		<-hup
		close(hangup)
		loop.Stop()
	}()
	m.Hangup = hangup
	defer context.AfterFunc(ctx, loop.Stop)()
	if m.Probe {
		return loop.Run()
	}
	verdict, why, err := loop.HandOver()
	switch {
	case err != nil:
		return err
	case verdict == standin.QEMU:
		loop.Close()
		return execQEMU(m.Log, why, m.args)
	case verdict == standin.Beside:
		loop.Close()
		return execQEMU(m.Log, why+"; the daemon goes on serving its consoles", standin.WithoutChannels(m.args))
	case verdict == standin.Ready:
		m.Log.Info("the daemon serves the consoles of this domain", "domid", m.DomID)
		loop.Left = sync.OnceFunc(func() {
			go func() { // ends with the process
				if err := m.restoreLost(ctx); err != nil && ctx.Err() == nil {
					m.Log.Error("a channel is missing", "error", err)
				}
			}()
		})
		return loop.Run()
	}
	return m.alone(ctx, why)
}

// alone serves the consoles without a daemon.
func (m *deviceModel) alone(ctx context.Context, why string) (err error) {
	if m.Store, err = m.app.openStore(ctx, m.where); err != nil {
		return err
	}
	defer m.Store.Close()
	qemu, err := devicemodel.NeedsQEMU(ctx, m.Store, m.Request)
	if err != nil {
		return err
	}
	if qemu != "" {
		m.Loop.Close()
		return execQEMU(m.Log, qemu, m.args)
	}
	m.Log.Info("serving the consoles of this domain alone", "domid", m.DomID, "why", why)
	if err := sys.NoPreempt(); err != nil {
		m.Log.Debug("libxl and xenstored are interrupted more than need be", "error", err)
	}
	rules := openFirewall(m.where.firewallDir(), m.Log)
	m.Firewall = rules.Current
	go rules.poll(ctx, firewallPoll)
	return devicemodel.Run(ctx, m.Config)
}

// restoreLost makes the channel that libxl has lost, if there is one.
func (m *deviceModel) restoreLost(ctx context.Context) (err error) {
	if !m.Lost() {
		return nil
	}
	c := m.Config
	if c.Store, err = m.app.openStore(ctx, m.where); err != nil {
		return err
	}
	defer c.Store.Close()
	if err := sys.NoPreempt(); err != nil {
		m.Log.Debug("libxl and xenstored are interrupted more than need be", "error", err)
	}
	return devicemodel.RestoreLost(ctx, c)
}

// execQEMU becomes the QEMU that the domain needs.
func execQEMU(log *slog.Logger, why string, args []string) error {
	path, err := findQEMU()
	if err != nil {
		return fmt.Errorf("this domain needs a real QEMU: %s: %w", why, err)
	}
	log.Info("this domain gets the real QEMU", "why", why, "qemu", path)
	return fmt.Errorf("exec %s: %w", path, syscall.Exec(path, append([]string{path}, args...), os.Environ()))
}

// findQEMU is the real QEMU of this host.
func findQEMU() (string, error) {
	var places []string
	if path := os.Getenv("XENCHAN_QEMU"); path != "" {
		places = []string{path}
	} else {
		for _, path := range devicemodel.QEMUs {
			places = append(places, path+devicemodel.Diverted, path)
		}
	}
	ours := []string{"/proc/self/exe", os.Getenv(standin.ProgramVar)}
	for _, path := range places {
		info, err := os.Stat(path)
		same := func(of string) bool {
			self, err := os.Stat(of)
			return err == nil && os.SameFile(info, self)
		}
		if err == nil && !info.IsDir() && !slices.ContainsFunc(ours, same) {
			return path, nil
		}
	}
	return "", fmt.Errorf("none is installed at any of %s: install the package with Xen's QEMU, or name it in XENCHAN_QEMU", strings.Join(places, ", "))
}

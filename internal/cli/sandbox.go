package cli

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	backend "github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/sandbox"
)

// The modes of the daemon's sandbox.
const (
	bestEffort = "best-effort"
	required   = "required"
	sandboxOff = "off"
)

var sandboxModes = []string{bestEffort, required, sandboxOff}

// confine gives up what the daemon does not need once it has started.
func (a *app) confine(w where, config daemonConfig, log *slog.Logger) (backend.About, error) {
	var about backend.About
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil {
		about.OpenFiles = limit.Cur
	}
	if config.Sandbox.Mode == sandboxOff {
		log.Warn("no sandbox, as configured")
		about.Open = "switched off in the configuration"
		return about, nil
	}
	if err := os.MkdirAll(w.runDir(), 0o755); err != nil { // a rule is about a directory that exists
		return about, fmt.Errorf("make the run directory: %w", err)
	}
	// Accounts, the time zone, the configuration and the drop-in files; all by
	// their directories, as files are replaced when they change.
	read := []string{"/etc", "/usr/share/zoneinfo", "/sys/hypervisor", filepath.Dir(config.Channels.Dir), filepath.Dir(config.Firewall.Dir)}
	if config.file != "" {
		read = append(read, filepath.Dir(config.file))
	}
	state, err := sandbox.Enter(sandbox.Rules{
		Own:     []string{w.runDir()},
		Sockets: config.Sandbox.SocketDirs,
		Read:    read,
		Devices: append([]string{"/dev/xen", "/dev/ptmx", "/dev/pts"}, storePath(a.store)...),
	})
	about.Landlock, about.Seccomp = state.Landlock, state.Seccomp
	if err != nil {
		if config.Sandbox.Mode == required {
			return about, fmt.Errorf("sandbox.mode is %s: %w", required, err)
		}
		about.Open = err.Error()
		log.Warn("the sandbox has gaps", "error", err)
	}
	log.Info("sandbox", "landlock_abi", state.Landlock, "seccomp_denied", state.Seccomp, "socket_dirs", config.Sandbox.SocketDirs)
	return about, nil
}

// socketDirs is where sockets may be, nil for anywhere.
func (c daemonConfig) socketDirs() []string {
	if c.Sandbox.Mode == sandboxOff {
		return nil
	}
	return c.Sandbox.SocketDirs
}

// storePath is the xenstore that was named, if any: it may be a device.
func storePath(flag string) []string {
	if flag == "" {
		flag = os.Getenv("XENSTORED_PATH")
	}
	if flag == "" {
		return nil
	}
	return []string{flag}
}

// filesOfDaemon is what the daemon needs of descriptors itself, with some to spare.
const filesOfDaemon = 112

// filesForChannels is how many descriptors there are for channels and their clients. Go
// has raised the soft limit to the hard one.
func filesForChannels() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	if least := uint64(filesOfDaemon + backend.LeastFiles); limit.Cur < least {
		return 0, fmt.Errorf("the limit of open files is %d, and one channel needs %d: raise it with LimitNOFILE= in the unit, or with ulimit -n",
			limit.Cur, least)
	}
	return int(min(limit.Cur-filesOfDaemon, 1<<30)), nil
}

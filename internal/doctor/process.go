package doctor

import (
	"context"
	"fmt"
	"os"

	"github.com/xenchan/xenchan/internal/daemon"
)

// unitFiles are where the daemon's unit may be (systemd.unit(5)).
var unitFiles = []string{"/etc/systemd/system/xenchan.service", "/usr/local/lib/systemd/system/xenchan.service", "/usr/lib/systemd/system/xenchan.service"}

// startDaemon is how to start the daemon of a host.
func startDaemon(h Host) string {
	if !h.Embedded {
		for _, f := range unitFiles {
			if _, err := os.Stat(f); err == nil {
				return "start it: systemctl start xenchan; `journalctl -u xenchan` says why it does not run"
			}
		}
	}
	return "start it: xenchan daemon"
}

// checkProcess looks at what the daemon may do and has room for.
func checkProcess(ctx context.Context, r *report, h Host) {
	a, err := daemon.QueryAbout(ctx, h.RunDir)
	if err != nil {
		r.add("daemon-old", Warning, "restart the daemon", "the daemon does not say what it may do: %v", err)
		return
	}
	if a.Open != "" {
		r.add("sandbox-open", Warning, "see the section [sandbox] of `xenchan daemon --help`",
			"the daemon has rights that it does not need (landlock %s, %d system calls refused): %s", version(a.Landlock), a.Seccomp, a.Open)
	} else {
		r.add("sandbox", OK, "", "the daemon is confined: landlock %s, %d system calls refused", version(a.Landlock), a.Seccomp)
	}
	if a.UID == 0 && !h.Embedded {
		r.add("daemon-root", Warning, "start it with the unit of packaging/, which needs no root (docs/install.md)", "the daemon runs as root")
	}
	if a.Unserved > 0 {
		r.add("open-files-short", Failed, "raise LimitNOFILE= (systemctl edit xenchan) and restart the daemon",
			"%d channels are not served, as the limit of %d open files has room for %d", a.Unserved, a.OpenFiles, a.MaxChannels)
	}
}

func version(abi int) string {
	if abi == 0 {
		return "off"
	}
	return fmt.Sprintf("version %d", abi)
}

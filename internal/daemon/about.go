package daemon

import (
	"context"
	"net/http"
	"os"
)

// About is what a daemon says of itself.
type About struct {
	PID int `json:"pid"`
	UID int `json:"uid"`
	// Landlock is the version of landlock that is in force and Seccomp the number
	// of system calls that are refused; 0 for none. Open says why there is less
	// than there could be.
	Landlock int    `json:"landlock_abi"`
	Seccomp  int    `json:"seccomp_denied"`
	Open     string `json:"open,omitempty"`
	// SocketDirs are the directories below which sockets may be, beside the run
	// directory; none means that they may be anywhere.
	SocketDirs []string `json:"socket_dirs"`
	// OpenFiles is the limit of descriptors, MaxChannels how many channels can be
	// served with it beside the clients that there are, and Unserved how many more are wanted.
	OpenFiles   uint64 `json:"open_files_limit"`
	MaxChannels int    `json:"max_channels"`
	Unserved    int    `json:"unserved_channels"`
}

func (d *Daemon) about() About {
	a := d.About
	a.PID, a.UID = os.Getpid(), os.Geteuid()
	a.SocketDirs, a.MaxChannels = d.SocketDirs, d.files.most()
	a.Unserved = int(d.unserved.Load())
	return a
}

// QueryAbout asks the daemon of a run directory about itself.
func QueryAbout(ctx context.Context, runDir string) (About, error) {
	var a About
	err := Call(ctx, runDir, http.MethodGet, "/v1/daemon", &a)
	return a, err
}

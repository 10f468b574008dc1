// Package sandbox takes rights away from this process for good, so that whoever
// should take it over, by a mistake in what reads a guest's bytes, has little to go
// on with. Landlock leaves a few directories and devices, seccomp takes the system
// calls with which one becomes somebody else, runs programs or attacks the kernel.
// What systemd's unit forbids besides does not depend on this, nor this on systemd.
package sandbox

import (
	"errors"
	"fmt"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"

	"github.com/xenchan/xenchan/internal/sys"
)

// Rules are the places that are left. Those that are not there are skipped: a rule
// is about a file that exists, not about its name.
type Rules struct {
	// Own are directories in which files may be made, read, written and removed.
	Own []string
	// Sockets are directories below which sockets and directories may be made,
	// moved and removed, and no file be read or written.
	Sockets []string
	// Read are directories and files that may be read.
	Read []string
	// Devices are device files, and directories of them, that may be used.
	Devices []string
}

// State is what is in force.
type State struct {
	// Landlock is the version of the kernel's landlock, 0 when it is not used.
	Landlock int `json:"landlock_abi"`
	// Seccomp is how many system calls are refused.
	Seccomp int `json:"seccomp_denied"`
}

// minABI is the first landlock that lets files be moved between directories, as
// sockets are when they are ready (Linux 5.19).
const minABI = 2

const (
	list  = ll.AccessFSReadDir
	place = ll.AccessFSMakeSock | ll.AccessFSMakeDir | ll.AccessFSRemoveFile | ll.AccessFSRemoveDir | ll.AccessFSRefer
	read  = ll.AccessFSReadFile
	own   = list | place | read | ll.AccessFSWriteFile | ll.AccessFSMakeReg | ll.AccessFSTruncate
	use   = read | ll.AccessFSWriteFile | ll.AccessFSIoctlDev
)

// Enter restricts the process, all its threads and all to come. The error joins
// what could not be done; the rest is in force all the same.
func Enter(r Rules) (State, error) {
	var s State
	var landlockErr, seccompErr error
	if s.Landlock, landlockErr = restrictFiles(r); landlockErr != nil {
		landlockErr = fmt.Errorf("landlock: %w", landlockErr)
	}
	if s.Seccomp, seccompErr = restrictCalls(); seccompErr != nil {
		seccompErr = fmt.Errorf("seccomp: %w", seccompErr)
	}
	return s, errors.Join(landlockErr, seccompErr)
}

func restrictFiles(r Rules) (abi int, err error) {
	abi = sys.LandlockABI()
	if abi < minABI {
		return 0, fmt.Errorf("the kernel offers version %d; %d is needed, which Linux 5.19 and later have when lsm= of the kernel's command line names landlock", abi, minABI)
	}
	// Version 5 is the last that is about files and TCP alone. TCP goes entirely.
	err = landlock.V5.BestEffort().Restrict(
		landlock.PathAccess(own, r.Own...).IgnoreIfMissing(),
		landlock.PathAccess(list|place, r.Sockets...).IgnoreIfMissing(),
		landlock.PathAccess(list|read, r.Read...).IgnoreIfMissing(),
		landlock.PathAccess(use, r.Devices...).IgnoreIfMissing(),
	)
	if err != nil {
		return 0, err
	}
	return abi, nil
}

func restrictCalls() (denied int, err error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return 0, err
	}
	var names []string
	for _, name := range forbidden {
		if _, ok := info.SyscallNames[name]; ok { // not every architecture has all
			names = append(names, name)
		}
	}
	err = seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls:      []seccomp.SyscallGroup{{Names: names, Action: seccomp.ActionErrno}},
		},
	})
	if err != nil {
		return 0, err
	}
	return len(names), nil
}

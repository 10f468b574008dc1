package sys

import "golang.org/x/sys/unix"

// LandlockABI is the version of landlock(7) that the kernel offers, 0 for none.
func LandlockABI() int {
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION of linux/landlock.h
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version)
	if errno != 0 {
		return 0
	}
	return int(abi)
}

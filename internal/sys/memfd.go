package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// NewMemfd makes a zeroed anonymous file of size bytes that nobody can shrink,
// grow, or seal any further (memfd_create(2)). Whoever maps it therefore never
// gets a SIGBUS because of what another holder of the descriptor did.
func NewMemfd(name string, size int64) (*Handle, error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	// A kernel may insist on a file that cannot be executed
	// (vm.memfd_noexec); one before Linux 6.3 does not know the flag.
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	h := NewHandle(fd)
	if err := retry(func() error { return unix.Ftruncate(fd, size) }); err != nil {
		_ = h.Close()
		return nil, os.NewSyscallError("ftruncate", err)
	}
	seals := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		_ = h.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	return h, nil
}

package sys

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Devices of hypercalls, and of memory that one may point to.
const (
	privcmdDevice   = "/dev/xen/privcmd"
	hypercallDevice = "/dev/xen/hypercall"
)

// The hypercall that a toolstack controls domains with (Linux's
// include/uapi/xen/privcmd.h, Xen's public headers xen.h and domctl.h).
const (
	privcmdHypercall        = 0x00305000 // u64 op, u64 arg[5]
	hypercallDomctl         = 36
	domctlUnpause           = 4
	domctlSize              = 144 // u32 cmd, u32 version, u16 domid, …
	domctlOldest     uint32 = 0x15
	domctlNewest     uint32 = 0x18
)

// UnpauseDomain lets a domain run, where the Xen is one from 4.17 to 4.22: the interface
// has a number for each that is not compatible with the one before, but what is used
// here is the same in all of them. Another Xen is EACCES, and nothing has happened.
func UnpauseDomain(dom uint16) (err error) {
	fd, err := openRaw(hypercallDevice, 0)
	if err != nil {
		return err
	}
	memory := NewHandle(fd)
	defer func() { err = errors.Join(err, memory.Close()) }()
	page, err := Map(Extent{File: memory, Len: os.Getpagesize()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, page.Close()) }()
	privcmd, err := openRaw(privcmdDevice, 0)
	if err != nil {
		return err
	}
	defer unix.Close(privcmd)
	for version := domctlNewest; version >= domctlOldest; version-- {
		op := page.Bytes()[:domctlSize]
		clear(op)
		binary.NativeEndian.PutUint32(op, domctlUnpause)
		binary.NativeEndian.PutUint32(op[4:], version)
		binary.NativeEndian.PutUint16(op[8:], dom)
		call := binary.NativeEndian.AppendUint64(nil, hypercallDomctl)
		call = binary.NativeEndian.AppendUint64(call, uint64(addressOf(op)))
		call = append(call, make([]byte, 4*8)...)
		if _, err = ioctlBytes(privcmd, privcmdHypercall, call); !errors.Is(err, unix.EACCES) {
			break
		}
	}
	return os.NewSyscallError("unpause", err)
}

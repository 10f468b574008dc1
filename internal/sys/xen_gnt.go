package sys

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Devices of grants: of other domains' pages (module xen-gntdev) and of pages
// for other domains (xen-gntalloc).
const (
	GntdevDevice   = "/dev/xen/gntdev"
	GntallocDevice = "/dev/xen/gntalloc"
)

// Requests of the devices (Linux's include/uapi/xen/gntdev.h and gntalloc.h). The
// size in a number is that of the structure with one reference, however many
// there are.
const (
	gntdevMapGrantRef  = 0x00184700 // u32 count, u32 pad, u64 index (out), {u32 domid, u32 ref}…
	gntallocAllocGref  = 0x00184705 // u16 domid, u16 flags, u32 count, u64 index (out), u32 ref… (out)
	gntallocWritable   = 1
	gntHeaderSize      = 16 // up to the references, in both
	gntIndexOffset     = 8
	gntPageSize        = 4096 // of a grant, whatever the kernel's pages are
	gntMaxRefs         = 1024 // of one call: gntalloc's default limit for all
	gntallocGrefLength = 4
)

// MapGrants maps pages that the domain remote has granted to this one, readable
// and writable, in the order of refs. One that was not granted is EINVAL.
func MapGrants(remote uint16, refs []uint32) (*Mapping, error) {
	if len(refs) == 0 || len(refs) > gntMaxRefs {
		return nil, os.NewSyscallError("ioctl", unix.EINVAL)
	}
	arg := binary.NativeEndian.AppendUint32(nil, uint32(len(refs)))
	arg = append(arg, make([]byte, gntHeaderSize-len(arg))...)
	for _, ref := range refs {
		arg = binary.NativeEndian.AppendUint32(arg, uint32(remote))
		arg = binary.NativeEndian.AppendUint32(arg, ref)
	}
	// The hypervisor is asked at the mmap, not at the ioctl.
	return mapGrantFile(GntdevDevice, gntdevMapGrantRef, arg, len(refs))
}

// SharePages allocates n zeroed pages, grants them to the domain remote, and
// returns their mapping and grant references. They stay granted until the
// mapping is closed and remote has let them go.
func SharePages(remote uint16, n int) (*Mapping, []uint32, error) {
	if n <= 0 || n > gntMaxRefs {
		return nil, nil, os.NewSyscallError("ioctl", unix.EINVAL)
	}
	arg := binary.NativeEndian.AppendUint16(nil, remote)
	arg = binary.NativeEndian.AppendUint16(arg, gntallocWritable)
	arg = binary.NativeEndian.AppendUint32(arg, uint32(n))
	arg = append(arg, make([]byte, gntHeaderSize-len(arg)+n*gntallocGrefLength)...)
	m, err := mapGrantFile(GntallocDevice, gntallocAllocGref, arg, n)
	if err != nil {
		return nil, nil, err
	}
	refs := make([]uint32, n)
	for i := range refs {
		refs[i] = binary.NativeEndian.Uint32(arg[gntHeaderSize+i*gntallocGrefLength:])
	}
	return m, refs, nil
}

// mapGrantFile makes one set of pages in an open of its own of a device, and maps
// it. The mapping keeps what the open holds, so the descriptor is not kept.
func mapGrantFile(device string, request uintptr, arg []byte, pages int) (m *Mapping, err error) {
	fd, err := openRaw(device, 0)
	if err != nil {
		return nil, err
	}
	h := NewHandle(fd)
	defer func() { err = errors.Join(err, h.Close()) }()
	if _, err := ioctlBytes(fd, request, arg); err != nil {
		return nil, os.NewSyscallError("ioctl", err)
	}
	index := binary.NativeEndian.Uint64(arg[gntIndexOffset:])
	return Map(Extent{File: h, Offset: int64(index), Len: pages * gntPageSize})
}

// CheckDevice opens a device for reading and writing, and closes it.
func CheckDevice(path string) error {
	fd, err := openRaw(path, 0)
	if err != nil {
		return err
	}
	return os.NewSyscallError("close", unix.Close(fd))
}

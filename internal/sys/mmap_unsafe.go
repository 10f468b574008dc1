package sys

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Extent is a part of a file that is to be mapped.
type Extent struct {
	File   *Handle
	Offset int64 // bytes
	Len    int   // bytes
}

// Mapping is shared memory in this process.
type Mapping struct {
	mu    sync.Mutex
	whole []byte // what munmap takes, guarded by mu
	view  []byte // what the caller asked for
}

// Map maps the extents, readable, writable and shared, one after the other.
// The files stay open and may be closed afterwards. An extent that reaches
// beyond its file makes a mapping that must not be touched there.
//
// One extent may start and end anywhere. Several of them must each be a
// multiple of the kernel's page size, or the error is ENOTSUP.
func Map(extents ...Extent) (*Mapping, error) {
	if len(extents) == 1 {
		return mapOne(extents[0])
	}
	total := 0
	page := os.Getpagesize()
	for _, e := range extents {
		if e.Len <= 0 || e.Offset < 0 {
			return nil, os.NewSyscallError("mmap", unix.EINVAL)
		}
		if e.Len%page != 0 || e.Offset%int64(page) != 0 {
			return nil, fmt.Errorf("memory from several files needs whole kernel pages of %d bytes: %w", page, unix.ENOTSUP)
		}
		total += e.Len
	}
	whole, err := mmap(-1, 0, total, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	at := 0
	for _, e := range extents {
		// The reservation is ours, so that MAP_FIXED replaces nothing else.
		err := e.File.use(func(fd int) error {
			_, err := unix.MmapPtr(fd, e.Offset, unsafe.Pointer(&whole[at]), uintptr(e.Len),
				unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED)
			return os.NewSyscallError("mmap", err)
		})
		if err != nil {
			_ = munmap(whole)
			return nil, err
		}
		at += e.Len
	}
	return &Mapping{whole: whole, view: whole}, nil
}

// mapOne maps from the kernel page in which the extent starts.
func mapOne(e Extent) (*Mapping, error) {
	if e.Len <= 0 || e.Offset < 0 {
		return nil, os.NewSyscallError("mmap", unix.EINVAL)
	}
	skip := int(e.Offset % int64(os.Getpagesize()))
	var whole []byte
	err := e.File.use(func(fd int) (err error) {
		whole, err = mmap(fd, e.Offset-int64(skip), skip+e.Len, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &Mapping{whole: whole, view: whole[skip : skip+e.Len : skip+e.Len]}, nil
}

// Bytes is the memory. Touching it after Close ends the process with a fault.
func (m *Mapping) Bytes() []byte { return m.view }

// Populate sees to it that a part of the memory is there: writing to it cannot fail
// then, which would end the process. It fails with ENOSPC where the file's file system
// has no room, and with EINVAL on a kernel before Linux 5.14. Both numbers are
// multiples of the kernel's page size, or are made that by taking in more.
func (m *Mapping) Populate(off, n int) error {
	err := m.advise(off, n, unix.MADV_POPULATE_WRITE)
	if errors.Is(err, unix.EFAULT) {
		err = os.NewSyscallError("madvise", unix.ENOSPC)
	}
	return err
}

// Discard gives back the place of a part of the memory in its file, which is zeros
// then. Whole pages of the kernel go.
func (m *Mapping) Discard(off, n int) error {
	page := os.Getpagesize()
	from, to := (off+page-1)/page*page, (off+n)/page*page
	if from >= to {
		return nil
	}
	return m.advise(from, to-from, unix.MADV_REMOVE)
}

func (m *Mapping) advise(off, n, advice int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	page := os.Getpagesize()
	from := off / page * page
	if off < 0 || n <= 0 || off+n > len(m.whole) {
		return os.NewSyscallError("madvise", unix.EINVAL)
	}
	return os.NewSyscallError("madvise", retry(func() error { return unix.Madvise(m.whole[from:off+n], advice) }))
}

// Close unmaps the memory. Closing twice is harmless.
func (m *Mapping) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.whole == nil {
		return nil
	}
	err := munmap(m.whole)
	m.whole = nil
	return err
}

// mmap is unix.Mmap without its list of all that is mapped.
func mmap(fd int, off int64, n, prot, flags int) ([]byte, error) {
	p, err := unix.MmapPtr(fd, off, nil, uintptr(n), prot, flags)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return unsafe.Slice((*byte)(p), n), nil
}

func munmap(b []byte) error {
	return os.NewSyscallError("munmap", unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b))))
}

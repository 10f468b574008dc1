package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlBytes issues an ioctl whose argument is a structure laid out in arg, which
// the kernel may change, and returns its result. A request without an argument
// has a nil arg.
func ioctlBytes(fd int, request uintptr, arg []byte) (int, error) {
	result, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request,
		uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
	if errno != 0 {
		return 0, errno
	}
	return int(result), nil
}

// addressOf is where memory is that the garbage collector does not move or free: a
// mapping.
func addressOf(mapped []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(mapped))) }

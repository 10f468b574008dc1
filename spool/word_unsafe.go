package spool

import "unsafe"

// word is 8 bytes of a region as one number, for stores that happen whole or
// not at all. The region must be aligned, and off a multiple of 8 within it.
func word(region []byte, off int) *uint64 {
	return (*uint64)(unsafe.Pointer(&region[off : off+8][0]))
}

func aligned(region []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(region)))%8 == 0
}

package xensim

import "unsafe"

// word is 8 bytes of shared memory as one number. The memory begins at a page, and off
// is a multiple of 8 within it.
func word(memory []byte, off int) *uint64 {
	return (*uint64)(unsafe.Pointer(&memory[off : off+8][0]))
}

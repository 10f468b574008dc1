package ring

import (
	"sync/atomic"
	"unsafe"
)

// index is one of the four counters in the page. Loads and stores are atomic
// and sequentially consistent, which gives the memory barriers that the protocol
// asks for on every architecture that Go supports.
type index struct{ p *uint32 }

// indexAt is the counter at a byte offset of the page. The page must be aligned
// to 4 bytes, which [Backend] and [Frontend] check through aligned.
func indexAt(page []byte, off int) index {
	return index{(*uint32)(unsafe.Pointer(&page[off]))}
}

func (i index) load() uint32   { return atomic.LoadUint32(i.p) }
func (i index) store(v uint32) { atomic.StoreUint32(i.p, v) }

func aligned(page []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(page)))%4 == 0
}

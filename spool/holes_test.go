package spool

import "errors"

// holes is memory with pages that are not there until they are reserved.
type holes struct {
	b     []byte
	there []bool // by page
	limit int    // no byte beyond this can be had
}

func newHoles(size int) *holes {
	n := RegionSize(size)
	return &holes{b: make([]byte, n), there: make([]bool, n/4096+1), limit: n}
}

func (h *holes) pages() (n int) {
	for _, there := range h.there {
		if there {
			n++
		}
	}
	return n
}

func (h *holes) memory() Memory {
	return Memory{
		Bytes: h.b,
		Reserve: func(off, n int) error {
			if off+n > h.limit {
				return errors.New("no space left on device")
			}
			if n > 0 {
				for i := off / 4096; i <= (off+n-1)/4096; i++ {
					h.there[i] = true
				}
			}
			return nil
		},
		Release: func(off, n int) {
			clear(h.b[off : off+n])
			for i := (off + 4095) / 4096; i <= (off+n-1)/4096; i++ {
				h.there[i] = false
			}
		},
	}
}

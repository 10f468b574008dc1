package spool

import "sync/atomic"

// cell is a small state in a region that changes as a whole, by one store. Its
// first word counts commits, and the lowest bit of that selects which of two
// slots holds. A commit writes the other slot and then the word.
type cell struct {
	region   []byte
	at, size int    // of the word, and of a slot, in bytes
	seq      uint64 // of the last commit
}

const slotsAfter = 64 // from the word, so that it has a cache line of its own

func (c *cell) load() { c.seq = atomic.LoadUint64(word(c.region, c.at)) }

// slot is what holds.
func (c *cell) slot() []byte { return c.nth(c.seq) }

// next is where to write what is to hold after commit.
func (c *cell) next() []byte { return c.nth(c.seq + 1) }

func (c *cell) nth(seq uint64) []byte {
	return c.region[c.at+slotsAfter+int(seq%2)*c.size:][:c.size]
}

func (c *cell) commit() {
	c.seq++
	atomic.StoreUint64(word(c.region, c.at), c.seq)
}

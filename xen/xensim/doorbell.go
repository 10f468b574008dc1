package xensim

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
)

// The memory of a link notes events as Xen's shared page does (xen.h, shared_info): for
// each channel and each of its two ends a bit that says that there is an event, and one
// that says that the end does not want to be woken for it now. Who sends an event sets
// the first, and rings only if it was not set and the second is not. The words of the
// two sides are in cache lines of their own.
const (
	maxSlots  = 1 << 14
	groupSize = 128 // bytes for 64 slots: a cache line each way
	linkSize  = maxSlots / 64 * groupSize
)

// end is one end of a channel: where its bits are.
type end struct {
	pending, masked *uint64
	bit             uint64
}

func endOf(memory []byte, side int, slot uint32) end {
	at := int(slot)/64*groupSize + side*groupSize/2
	return end{word(memory, at), word(memory, at+8), 1 << (slot % 64)}
}

// send notes an event, and reports whether the end is to be woken.
func (e end) send() bool {
	return atomic.OrUint64(e.pending, e.bit)&e.bit == 0 && atomic.LoadUint64(e.masked)&e.bit == 0
}

// take masks the end if it has an event, which is known of then.
func (e end) take() bool {
	if atomic.LoadUint64(e.pending)&e.bit == 0 {
		return false
	}
	e.mask()
	return true
}

// mask comes first, so that an event from then on is seen by unmask.
func (e end) mask() {
	atomic.OrUint64(e.masked, e.bit)
	atomic.AndUint64(e.pending, ^e.bit)
}

// unmask reports whether there was an event since, and masks the end again then.
func (e end) unmask() bool {
	atomic.AndUint64(e.masked, ^e.bit)
	return e.take()
}

// wires is this process's half of a link.
type wires struct {
	memory *sys.Mapping
	rx, tx *sys.Handle
	bell   uint32 // rx's key
	side   int
	here   []uint32 // keys of this process's channels, by their slots; 0 for none
	used   int      // of them
}

func (w *wires) close() {
	_ = w.rx.Close()
	_ = w.tx.Close()
	_ = w.memory.Close()
}

// doorbells waits for the events of many links, a [turns.Source].
type doorbells struct {
	bells *sys.Bells

	mu      sync.Mutex
	links   map[linkName]*wires // guarded by mu, as all below
	rung    map[uint32]*wires   // by the keys of their bells
	ends    map[uint32]end      // by the keys of the channels
	ready   []uint32            // keys that have an event and are masked
	last    uint32              // key
	waiting bool                // somebody waits for the bells

	keys   [64]uint32 // for Wait alone, as fromUs
	fromUs int        // times in a row that nobody looked at the bells
}

// linkName is one side of a link, as a connection knows it.
type linkName struct {
	conn *Conn
	id   uint32
	side int
}

// mostFromUs bounds fromUs: a channel that always has an event must not keep the others
// from theirs.
const mostFromUs = 16

func newDoorbells() (*doorbells, error) {
	b, err := sys.NewBells()
	if err != nil {
		return nil, err
	}
	return &doorbells{
		bells: b, links: make(map[linkName]*wires), rung: make(map[uint32]*wires), ends: make(map[uint32]end),
	}, nil
}

// add takes in one end of a channel, which has no event then. It owns the descriptors
// that came with it: the link's memory, what is waited on and what is rung.
func (d *doorbells) add(l linkName, slot uint32, hs []*sys.Handle) (w *wires, key uint32, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w = d.links[l]; w != nil {
		sys.CloseAll(hs)
	} else if w, err = d.connect(l, hs[0], hs[1], hs[2]); err != nil {
		sys.CloseAll(hs)
		return nil, 0, err
	}
	for d.last++; d.last == 0 || d.taken(d.last); d.last++ {
	}
	key = d.last
	e := endOf(w.memory.Bytes(), l.side, slot)
	e.mask() // whatever was left
	if e.unmask() {
		d.ready = append(d.ready, key)
	}
	for len(w.here) <= int(slot) {
		w.here = append(w.here, 0)
	}
	d.ends[key], w.here[slot] = e, key
	w.used++
	return w, key, nil
}

func (d *doorbells) taken(key uint32) bool {
	_, ok := d.ends[key]
	return ok
}

func (d *doorbells) connect(l linkName, memory, rx, tx *sys.Handle) (*wires, error) {
	m, err := sys.Map(sys.Extent{File: memory, Len: linkSize})
	if err != nil {
		return nil, err
	}
	w := &wires{memory: m, rx: rx, tx: tx, side: l.side}
	if w.bell, err = d.bells.Add(rx); err != nil {
		_ = m.Close()
		return nil, err
	}
	_ = memory.Close() // it stays mapped
	d.links[l], d.rung[w.bell] = w, w
	return w, nil
}

// remove takes an end out, and with the last one its link.
func (d *doorbells) remove(l linkName, slot, key uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.links[l]
	d.ends[key].mask() // so that the other end rings no more
	delete(d.ends, key)
	w.here[slot] = 0
	if w.used--; w.used > 0 {
		return
	}
	delete(d.links, l)
	delete(d.rung, w.bell)
	_ = d.bells.Remove(w.bell)
	w.close()
}

// Wait is that of [turns.Source].
func (d *doorbells) Wait(keys []uint32, wait time.Duration) (int, error) {
	d.mu.Lock()
	if len(d.ready) > 0 {
		if d.fromUs++; d.fromUs < mostFromUs {
			defer d.mu.Unlock()
			return d.take(keys), nil
		}
		wait = 0
	}
	d.fromUs = 0
	d.waiting = wait != 0
	d.mu.Unlock()
	n, err := d.bells.Wait(d.keys[:], wait)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting = false
	if err != nil {
		return 0, err
	}
	for _, bell := range d.keys[:n] {
		if w := d.rung[bell]; w != nil { // else it was removed meanwhile
			d.look(w)
		}
	}
	return d.take(keys), nil
}

// look finds who was rung for; d.mu is held.
func (d *doorbells) look(w *wires) {
	for first := 0; first < len(w.here); first += 64 {
		group := endOf(w.memory.Bytes(), w.side, uint32(first))
		for left := atomic.LoadUint64(group.pending); left != 0; left &= left - 1 {
			slot := first + bits.TrailingZeros64(left)
			if slot >= len(w.here) || w.here[slot] == 0 {
				continue // another process's, or nobody's
			}
			if key := w.here[slot]; d.ends[key].take() {
				d.ready = append(d.ready, key)
			}
		}
	}
}

func (d *doorbells) take(keys []uint32) int {
	n := copy(keys, d.ready)
	d.ready = d.ready[:copy(d.ready, d.ready[n:])]
	return n
}

// Mask is that of [turns.Source].
func (d *doorbells) Mask(key uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e, ok := d.ends[key]; ok {
		e.mask()
	}
	return nil
}

// Unmask is that of [turns.Source].
func (d *doorbells) Unmask(keys []uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, key := range keys {
		if e, ok := d.ends[key]; ok && e.unmask() {
			d.ready = append(d.ready, key)
		}
	}
	if d.waiting && len(d.ready) > 0 {
		return d.bells.Wake()
	}
	return nil
}

// Wake is that of [turns.Source].
func (d *doorbells) Wake() error { return d.bells.Wake() }

// Close may be called once nobody is in Wait.
func (d *doorbells) Close() error { return d.bells.Close() }

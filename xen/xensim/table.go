package xensim

// table gives out numbers from first on, always the lowest that is free, as
// Xen does with ports and Linux about does with grant references.
type table[V any] struct {
	used  map[uint32]V
	low   uint32 // no number below it is free
	first uint32
	max   int // how many may be in use
}

func newTable[V any](first uint32, max int) table[V] {
	return table[V]{used: make(map[uint32]V), low: first, first: first, max: max}
}

func (t *table[V]) full(more int) bool { return len(t.used)+more > t.max }

func (t *table[V]) add(v V) (uint32, bool) {
	if t.full(1) {
		return 0, false
	}
	for {
		n := t.low
		t.low++
		if _, taken := t.used[n]; !taken {
			t.used[n] = v
			return n, true
		}
	}
}

func (t *table[V]) remove(n uint32) {
	delete(t.used, n)
	t.low = min(t.low, n)
}

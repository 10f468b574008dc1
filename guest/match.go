package guest

import (
	"math"
	"slices"
)

// match finds out which interrupt is whose. The kernel gives a console one when the
// driver takes it, before the next one is taken; and when the guest is restored, while
// nothing else happens in it, all of them get new ones, in the order in which their
// devices came, and the old ones stay, without a use (drivers/tty/hvc/hvc_xen.c). Nobody
// saw when that was, nor what went meanwhile, so match tries each history that the inode
// numbers allow, and says only what is the same in all of them. owners are of lines whose
// console was found out before: no other console can have one.
func match(all []console, lines []line, owners map[irq]key) map[key]irq {
	m := matcher{possible: make(map[key]map[irq]bool)}
	first := uint64(math.MaxUint64) // what is older is the primary console's, or of nobody
	for _, c := range all {
		first = min(first, c.bind)
		its := func(l line) bool { return l.ours && owners[l.irq] == c.key() }
		switch {
		case c.life == sure:
			m.consoles = append(m.consoles, c)
		case !slices.ContainsFunc(lines, its):
			m.unsure = append(m.unsure, c)
		}
	}
	newest := make(map[key]uint64)
	for i, k := range owners {
		newest[k] = max(newest[k], i.ino)
	}
	for _, l := range lines {
		k, owned := owners[l.irq]
		current := func(c console) bool { return c.key() == k && c.life == sure && l.ino == newest[k] }
		if l.ino > first && (!owned || slices.ContainsFunc(all, current)) {
			m.lines = append(m.lines, l)
		}
	}
	sortBy(m.lines, func(l line) uint64 { return l.ino })
	sortBy(m.consoles, func(c console) uint64 { return c.bind })
	for restored := range len(m.consoles) + 1 {
		m.try(restored, owners)
	}
	certain := make(map[key]irq)
	for k, all := range m.possible {
		for i := range all {
			if len(all) == 1 {
				certain[k] = i
			}
		}
	}
	return certain
}

type matcher struct {
	consoles []console // sure, in the order of bind
	unsure   []console
	lines    []line // in the order of ino
	possible map[key]map[irq]bool
}

// try notes what can be if the last restore came between the first consoles, as many
// as restored, and the others.
func (m *matcher) try(restored int, owners map[irq]key) {
	order := slices.Clone(m.consoles)
	sortBy(order[:restored], func(c console) uint64 { return c.dev })
	n, lines := len(order), len(m.lines)
	fits := func(i, j int) bool {
		c, l := order[i], m.lines[j]
		if k, owned := owners[l.irq]; owned && k != c.key() {
			return false
		}
		after, before := c.bind, uint64(math.MaxUint64)
		next := i + 1
		if i < restored {
			after, next = m.consoles[restored-1].bind, restored
		}
		if next < n {
			before = m.consoles[next].bind
		}
		return l.ino > after && l.ino < before
	}
	// to and from are whether the first i consoles can have lines up to j, the last one
	// line j, and whether those from i on can have lines from j on. Lines that are left
	// out have to be nobody's.
	to, from := newTable(n, lines), newTable(n, lines)
	for j := range lines {
		if n > 0 {
			to[0][j] = fits(0, j) && m.free(0, j)
			from[n-1][j] = fits(n-1, j) && m.free(j+1, lines)
		}
	}
	for i := 1; i < n; i++ {
		for j := range lines {
			for k := j - 1; k >= 0 && !to[i][j] && m.free(k+1, j); k-- {
				to[i][j] = fits(i, j) && to[i-1][k]
			}
		}
	}
	for i := n - 2; i >= 0; i-- {
		for j := range lines {
			for k := j + 1; k < lines && !from[i][j] && m.free(j+1, k); k++ {
				from[i][j] = fits(i, j) && from[i+1][k]
			}
		}
	}
	for i, c := range order {
		for j, l := range m.lines {
			if to[i][j] && from[i][j] {
				if m.possible[c.key()] == nil {
					m.possible[c.key()] = make(map[irq]bool)
				}
				m.possible[c.key()][l.irq] = true
			}
		}
	}
}

// free reports whether lines from i on, and before j, can be without a console that is
// sure: we do not hold their terminals, or they are of one that is not sure.
func (m *matcher) free(i, j int) bool {
	return !slices.ContainsFunc(m.lines[i:j], func(l line) bool {
		return l.ours && !slices.ContainsFunc(m.unsure, func(c console) bool { return c.bind < l.ino })
	})
}

func newTable(n, m int) [][]bool {
	t := make([][]bool, n)
	for i := range t {
		t[i] = make([]bool, m)
	}
	return t
}

// sortBy sorts a few things. The one of package slices would be a hundredth of the binary.
func sortBy[T any](all []T, by func(T) uint64) {
	for i := range all {
		for j := i; j > 0 && by(all[j]) < by(all[j-1]); j-- {
			all[j], all[j-1] = all[j-1], all[j]
		}
	}
}

package guest

import (
	"cmp"
	"slices"
)

// ttys is how many terminals the hvc driver has (HVC_ALLOC_TTY_ADAPTERS in
// drivers/tty/hvc/hvc_console.c).
const ttys = 8

// console is a console device that the driver serves.
type console struct {
	id   string // console-N
	name string // the channel's
	// dev and bind are inode numbers, of the device's directory and of the link
	// that the driver made when it took the device. kernfs counts them up, so
	// they tell what was first, and one device from another of the same id.
	dev, bind uint64
	// dead says that the device is of the guest's life before it was restored: it has
	// its terminal still, but nobody serves it.
	dead bool
}

// key tells a console from all others since the guest was started.
type key struct {
	id   string
	bind uint64
}

func (c console) key() key { return key{c.id, c.bind} }

// predict says which terminal the kernel has given to each console: the lowest
// that was free. before is what each had, and moved are those that have hung up
// since and are still there. The kernel did that to them when the guest was
// restored: it took the terminal of one after the other, in the order in which the
// devices came, and gave it the lowest that was free then. first is the lowest
// terminal for channels. A console for which there is none is left out.
func predict(before map[key]int, moved map[key]bool, now []console, first int) map[key]int {
	var used [ttys]bool
	after := make(map[key]int)
	take := func(c console) {
		for n := first; n < ttys; n++ {
			if !used[n] {
				used[n], after[c.key()] = true, n
				return
			}
		}
	}
	for _, n := range before {
		if n >= first && n < ttys {
			used[n] = true
		}
	}
	// Those that are gone went after the others were moved: while a guest is
	// resumed nothing else happens in it.
	slices.SortFunc(now, func(a, b console) int { return cmp.Compare(a.dev, b.dev) })
	for _, c := range now {
		n, known := before[c.key()]
		switch {
		case known && moved[c.key()]:
			used[n] = false
			take(c)
		case known:
			after[c.key()] = n
		}
	}
	used = [ttys]bool{}
	for _, n := range after {
		used[n] = true
	}
	slices.SortFunc(now, func(a, b console) int { return cmp.Compare(a.bind, b.bind) })
	for _, c := range now {
		if _, known := after[c.key()]; !known {
			take(c)
		}
	}
	return after
}

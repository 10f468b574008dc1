package guest

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// irqDir has a directory for each interrupt. Linux says here what it says nowhere else:
// opening a terminal gives its console's interrupt a handler, and only that.
const irqDir = "/sys/kernel/irq"

// view is what there is at one moment.
type view struct {
	domid    string
	consoles []console
	lines    []line
}

// holds reports whether an interrupt is of a terminal that is held and has not hung up.
func (h *Holder) holds(i irq) bool {
	for n, its := range h.seen {
		if t := h.held[n]; its == i && t != nil && !t.hungUp() {
			return true
		}
	}
	return false
}

func (v view) has(i irq) bool {
	return slices.ContainsFunc(v.lines, func(l line) bool { return l.irq == i })
}

// inOrder reports whether a kernel counts up the inode numbers of kernfs: since Linux 4.14.
func inOrder(release string) bool {
	var major, minor int
	_, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	return err == nil && (major > 4 || major == 4 && minor >= 14)
}

// look is what there is. ok says that it was all there at one moment: that it was the
// same twice, and none of it can be there again once it has gone.
func (h *Holder) look(ctx context.Context) (v view, ok bool, err error) {
	v.consoles, v.domid, err = scan(ctx, h.Store, h.sysfs, h.owners)
	if err != nil {
		return v, false, err
	}
	v.lines, err = h.lines()
	if err != nil {
		return v, false, err
	}
	before := make(map[string]uint64)
	for _, c := range v.consoles {
		before[c.id] = c.bind
	}
	after, err := h.bound()
	if err != nil {
		return v, false, err
	}
	again, err := h.lines()
	return v, maps.Equal(before, after) && slices.Equal(v.lines, again), err
}

// bound is the consoles that the driver has taken, and their links.
func (h *Holder) bound() (map[string]uint64, error) {
	all := make(map[string]uint64)
	entries, err := os.ReadDir(h.sysfs)
	for _, e := range entries {
		if bind, err := inode(os.Lstat(filepath.Join(h.sysfs, e.Name()))); err == nil && strings.HasPrefix(e.Name(), "console-") {
			all[e.Name()] = bind
		}
	}
	return all, err
}

// lines is the interrupts that may be those of consoles. Where the kernel does not show
// them, each terminal that is held stands for its own.
func (h *Holder) lines() (all []line, err error) {
	if !h.ordered {
		for n, t := range h.held {
			all = append(all, line{t.irq(n), true, true})
		}
		sortBy(all, func(l line) uint64 { return l.ino })
		return all, nil
	}
	entries, err := os.ReadDir(h.irqs)
	xens := make(map[irq]bool)
	for _, e := range entries {
		number, notOne := strconv.Atoi(e.Name())
		dir := filepath.Join(h.irqs, e.Name())
		ino, err := inode(os.Lstat(dir))
		if err != nil || notOne != nil {
			continue // it has just gone
		}
		i := irq{number, ino}
		xen, known := h.xens[i]
		if !known {
			chip, err := os.ReadFile(filepath.Join(dir, "chip_name"))
			if err != nil {
				continue
			}
			xen = strings.HasPrefix(string(chip), "xen-dyn")
		}
		if xens[i] = xen; !xen {
			continue
		}
		if who := h.handler(dir); who == "" || who == "hvc_console" {
			all = append(all, line{i, who != "", h.holds(i)})
		}
	}
	h.xens = xens
	return all, err
}

// handler is who has asked for an interrupt.
func handler(dir string) string {
	text, _ := os.ReadFile(filepath.Join(dir, "actions"))
	return strings.TrimSpace(string(text))
}

// take opens the terminals that are there and not known, and sees which interrupt gets a
// handler by that. It reports whether it has found any.
func (h *Holder) take(known map[key]int) (found bool) {
	paths := make(map[int]string)
	placed := make(map[int]bool)
	for _, n := range known {
		placed[n] = true
	}
	for n := h.first; n < ttys; n++ {
		if h.held[n] != nil || placed[n] {
			continue
		}
		path, err := filepath.EvalSymlinks(h.ttyPath(n))
		if err == nil {
			paths[n] = path
		}
	}
	set := make(map[string]bool)
	for _, path := range paths {
		set[path] = true
	}
	others := openers(set)
	var fresh []int
	before, err := h.lines()
	if err != nil {
		h.Log.Warn("interrupts cannot be seen", "error", err)
		return false
	}
	for n := range ttys {
		if paths[n] == "" {
			continue
		}
		_, seen := h.seen[n]
		if others[paths[n]] && !seen {
			// It may be what is left of one that has hung up, and deaf: Linux gives that to
			// whoever opens it again.
			h.say(n, fmt.Errorf("%s is open in a program, and may be what was left when it hung up: no channel can have it before that program closes it", paths[n]))
			continue
		}
		if h.takeOne(n, &before) {
			found = true
			if !seen {
				fresh = append(fresh, n)
			}
		}
	}
	others = openers(set)
	for _, n := range fresh {
		if others[paths[n]] {
			h.drop(n) // perhaps it was that program who gave the interrupt its handler
		}
	}
	return found
}

// takeOne opens a terminal, and reports whether its interrupt is known then. before is
// what the interrupts are.
func (h *Holder) takeOne(n int, before *[]line) bool {
	t, err := holdTTY(h.ttyPath(n), h.wakeUp)
	if err != nil {
		if !gone(err) {
			h.say(n, err)
		}
		return false
	}
	h.held[n] = t
	was := handled(*before)
	after, err := h.lines()
	*before = after
	var its []irq
	for i := range handled(after) {
		if !was[i] {
			its = append(its, i)
		}
	}
	i, seen := h.seen[n]
	switch {
	case seen && was[i]: // a program has it open since a holder before this one
	case err == nil && len(its) == 1:
		h.seen[n] = its[0]
	default:
		h.drop(n)
		*before, _ = h.lines()
		h.say(n, fmt.Errorf("%s is opened, and %d interrupts get a handler: it cannot be told which console it is of", t.file.Name(), len(its)))
		return false
	}
	delete(h.said, n)
	return true
}

// handled is the interrupts that have a handler.
func handled(lines []line) map[irq]bool {
	all := make(map[irq]bool)
	for _, l := range lines {
		if l.used {
			all[l.irq] = true
		}
	}
	return all
}

// drop closes a terminal and forgets what it was.
func (h *Holder) drop(n int) {
	if t := h.held[n]; t != nil {
		t.close()
	}
	delete(h.held, n)
	delete(h.seen, n)
}

// say warns of a terminal, once for each reason.
func (h *Holder) say(n int, err error) {
	if h.said[n] != err.Error() {
		h.said[n] = err.Error()
		h.Log.Warn("terminal not held", "error", err)
	}
}

func ordered(irqs string) bool {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil || !inOrder(string(release)) {
		return false
	}
	info, err := os.Stat(irqs)
	return err == nil && info.Mode()&fs.ModeDir != 0
}

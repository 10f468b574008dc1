package guest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/xenstore"
)

// abandonedAfter is how long a device that was taken from the driver waits for a backend
// that is there, but does not want it; and how long one that the driver has may be neither
// connected nor gone.
const abandonedAfter = 10 * time.Second

// release lets go of devices that the kernel has lost when the guest was restored: their
// nodes were not there at that moment, because the channel was plugged in by hand,
// or came late. The kernel keeps such a device with its terminal, into which a
// program could write until its processor stands still, and does not look at nodes
// of its name when they come. So it is taken from the driver, which hangs up the
// terminal. It reports whether there were any.
func (h *Holder) release(ctx context.Context, now []console) (any bool, err error) {
	h.notice(now)
	for _, c := range now {
		if stuck, err := h.stuck(ctx, c); err != nil {
			return any, err
		} else if c.life != dead && !stuck {
			continue
		}
		before, err := h.lines()
		if err != nil {
			return any, err
		}
		err = h.driver("unbind", c.id)
		h.Log.Info("a device without a backend is let go", "console", c.id, "error", err)
		if err != nil && !errors.Is(err, syscall.ENODEV) { // ENODEV: the kernel was faster
			h.Log.Warn("a device without a backend keeps its terminal", "console", c.id, "error", err)
			continue
		}
		for n, its := range h.seen {
			if h.owners[its] == c.key() {
				h.drop(n)
			}
		}
		h.released[c.id] = time.Now()
		any = true
		if err := h.releaseRobbed(now, before); err != nil {
			return any, err
		}
	}
	return any, nil
}

// notice remembers since when devices are unsure.
func (h *Holder) notice(now []console) {
	since := make(map[key]time.Time)
	for _, c := range now {
		if c.life != unsure {
			continue
		}
		since[c.key()] = time.Now()
		if before, known := h.unsure[c.key()]; known {
			since[c.key()] = before
		}
	}
	h.unsure = since
}

// stuck reports whether the driver waits for nothing: the host has taken the nodes of the
// device away while the driver looked at them, and made new ones before it has seen that.
func (h *Holder) stuck(ctx context.Context, c console) (bool, error) {
	since, is := h.unsure[c.key()]
	if !is || time.Since(since) < h.abandoned {
		return false, nil
	}
	backend, err := h.Store.Read(ctx, nodeOf(c.id)+"/backend")
	if err != nil {
		return true, ignoreAbsent(err)
	}
	online, err := h.Store.Read(ctx, backend+"/online")
	return online != "0", ignoreAbsent(err) // at 0 the host is about to remove it
}

// releaseRobbed lets go too of a device whose interrupt has gone with one that was lost:
// Linux then closes what has its event channel's number from before the restore.
func (h *Holder) releaseRobbed(now []console, before []line) error {
	after, err := h.lines()
	for _, l := range before {
		if slices.ContainsFunc(after, func(a line) bool { return a.irq == l.irq }) {
			continue
		}
		var its console // the one that was taken last before, unless we know better
		for _, c := range now {
			if k, known := h.owners[l.irq]; known && k == c.key() || !known && c.bind < l.ino && c.bind > its.bind {
				its = c
			}
		}
		if its.life == dead || its.id == "" {
			continue
		}
		err := h.driver("unbind", its.id)
		h.Log.Info("a device whose interrupt was closed with another's is let go", "console", its.id, "error", err)
		h.released[its.id] = time.Now()
	}
	return err
}

// revive gives devices that were let go back to their driver, when their nodes are there.
// It reports whether there is more to do soon.
func (h *Holder) revive(ctx context.Context) (pending bool, err error) {
	for id, since := range h.released {
		if h.taken(id) { // the kernel has looked by itself
			delete(h.released, id)
			continue
		}
		offered, ready, err := h.offered(ctx, nodeOf(id))
		if err != nil {
			return false, err
		}
		if !offered {
			h.released[id] = time.Now()
			continue
		}
		pending = true
		if ready {
			if again, err := h.giveBack(id); err != nil || again {
				return again, err
			}
		}
		// The driver fails when the host has just taken the nodes away to offer them anew.
		if !h.taken(id) && time.Since(since) > h.abandoned {
			h.Log.Warn("the host does not take a device that is there again", "console", id)
			delete(h.released, id)
		}
	}
	return pending, nil
}

// taken reports whether the driver has a device.
func (h *Holder) taken(id string) bool {
	_, err := os.Lstat(filepath.Join(h.sysfs, id))
	return err == nil
}

// giveBack has the driver take a device. When the kernel has taken another one in the
// same moment, their interrupts may have come in any order, and it is let go again.
func (h *Holder) giveBack(id string) (again bool, err error) {
	before, err := h.bound()
	if err != nil {
		return false, err
	}
	err = h.driver("bind", id)
	h.Log.Info("a device is given back to its driver", "console", id, "error", err)
	after, err := h.bound()
	if err != nil {
		return false, err
	}
	for other, bind := range after {
		if other != id && after[id] != 0 && before[other] != bind {
			err := h.driver("unbind", id)
			h.Log.Info("a device is let go, since another came with it", "console", id, "other", other, "error", err)
			return true, nil
		}
	}
	return false, nil
}

// offered reports whether a frontend has nodes, and is ready to be looked at.
func (h *Holder) offered(ctx context.Context, node string) (offered, ready bool, err error) {
	err = h.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		offered, ready = false, false
		state, err := tx.Read(ctx, node+"/state")
		if err != nil {
			return ignoreAbsent(err)
		}
		offered = true
		if state == closed { // by the driver, when it was made to let go
			return tx.Write(ctx, node+"/state", initialising)
		}
		if state != initialising {
			return nil
		}
		backend, err := tx.Read(ctx, node+"/backend")
		if err != nil {
			return ignoreAbsent(err)
		}
		theirs, err := tx.Read(ctx, backend+"/state")
		// Any other is still about the device that was let go, and an end may follow.
		ready = theirs == initialising || theirs == initWait
		return ignoreAbsent(err)
	})
	return offered, ready, err
}

// writeDriver is the driver's own way to be told.
func (h *Holder) writeDriver(file, id string) error {
	f, err := os.OpenFile(filepath.Join(h.sysfs, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(id)
	return errors.Join(err, f.Close())
}

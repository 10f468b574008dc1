package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xenstore"
)

// retryPause is how long a console may have no terminal before another look.
const retryPause = 100 * time.Millisecond

// patience is how long programs have to close a terminal that has hung up.
const patience = 3 * time.Second

// ErrHeld means that another Holder makes the links already.
var ErrHeld = errors.New("guest: a holder is running")

// Config is what a Holder works with. Only Store is needed.
type Config struct {
	Store *xenstore.Store // the guest's own
	// Dir, unless empty, is where the links are instead of [Dir].
	Dir string
	Log *slog.Logger

	sysfs, dev, run string // other places, for tests
	// driver writes a device's name to a file of the driver's, bind or unbind.
	driver func(file, id string) error
}

// Holder makes the links, and knows which console has which terminal.
type Holder struct {
	Config
	first int // lowest terminal for channels
	saved     // what the next holder will know too
	// hold says that terminals are kept open. Without, nothing checks a prediction.
	hold bool
	held map[int]*terminal
	use  *usage
	wake chan struct{} // capacity 1
	// up is true after the first pass: what programs open before is theirs.
	up    bool
	since map[int]time.Time // when a terminal was first seen to linger
	said  map[int]string    // why a terminal could not be opened
	// released are devices that were taken from the driver, and when.
	released map[string]time.Time
}

// Setup makes the links once. It keeps nothing open, so that a terminal may echo
// until its user has set raw mode, and trusts its prediction where several channels
// came and went since it was called last: a running Holder is better.
func Setup(ctx context.Context, c Config) error {
	h, unlock, err := newHolder(ctx, c)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = h.pass(ctx)
	return err
}

// Hold makes the links, keeps each terminal open and raw, and tells the host
// who has one open, until ctx ends. ready is called when all is up that is there.
func Hold(ctx context.Context, c Config, ready func()) error {
	h, unlock, err := newHolder(ctx, c)
	if err != nil {
		return err
	}
	defer unlock()
	h.hold = true
	if h.use, err = newUsage(h); err != nil {
		return err
	}
	defer h.use.close()
	watch, err := h.Store.Watch(ctx, devices)
	if err != nil {
		return err
	}
	defer watch.Close()
	defer func() {
		for _, t := range h.held {
			t.close()
		}
	}()
	for {
		pending, err := h.pass(ctx)
		h.up = true
		if err == nil {
			err = h.use.publish(ctx)
		}
		if err != nil {
			return err
		}
		if ready != nil {
			ready()
			ready = nil
		}
		var again <-chan time.Time
		if pending {
			again = time.After(retryPause)
		}
		select {
		case _, ok := <-watch.C():
			if !ok {
				return watch.Err()
			}
			watch.Take()
		case <-h.wake:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

func newHolder(ctx context.Context, c Config) (h *Holder, unlock func() error, err error) {
	h = &Holder{
		Config: c, held: make(map[int]*terminal), since: make(map[int]time.Time),
		said: make(map[int]string), released: make(map[string]time.Time), wake: make(chan struct{}, 1),
	}
	for at, otherwise := range map[*string]string{&h.Dir: Dir, &h.sysfs: driverDir, &h.dev: "/dev", &h.run: "/run/xenchan-guest"} {
		if *at == "" {
			*at = otherwise
		}
	}
	if h.driver == nil {
		h.driver = h.writeDriver
	}
	if h.Log == nil {
		h.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(h.run, 0o755); err != nil {
		return nil, nil, err
	}
	lock, err := sys.LockFile(filepath.Join(h.run, "lock"))
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil, ErrHeld
	} else if err != nil {
		return nil, nil, err
	}
	if h.first, err = firstTTY(ctx, h.Store); err != nil {
		_ = lock.Close()
		return nil, nil, err
	}
	h.saved = load(h.statePath())
	return h, lock.Close, nil
}

func (h *Holder) statePath() string    { return filepath.Join(h.run, "terminals") }
func (h *Holder) ttyPath(n int) string { return filepath.Join(h.dev, fmt.Sprintf("hvc%d", n)) }
func (h *Holder) wakeUp() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// pass brings terminals and links in line with the consoles that are there. It
// reports whether one of them has no terminal yet.
func (h *Holder) pass(ctx context.Context) (pending bool, err error) {
	now, domid, err := scan(ctx, h.Store, h.sysfs, h.of)
	if err != nil {
		return false, err
	}
	moved := h.moved(domid, now)
	if err := h.unlink(now, moved); err != nil {
		return false, err
	}
	after := predict(h.of, moved, now, h.first)
	if h.hold {
		pending = h.check(after, moved, now)
	}
	for n, t := range h.held {
		if !pending && !slices.Contains(slices.Collect(maps.Values(after)), n) {
			t.close()
			delete(h.held, n)
		}
	}
	want := h.links(now, after)
	h.saved = saved{domid: domid, of: after}
	h.use.channels(now, after, domid)
	if err := link(h.Dir, want); err != nil {
		return false, err
	}
	if h.hold {
		revived, err := h.revive(ctx, now)
		if err != nil {
			return false, err
		}
		pending = pending || revived
	}
	return pending, h.save(h.statePath())
}

// links is the channels' names and terminals. What has none is said once.
func (h *Holder) links(now []console, after map[key]int) map[string]string {
	want := make(map[string]string)
	for _, c := range now {
		n, ok := after[c.key()]
		_, twice := want[c.name]
		_, known := h.of[c.key()]
		switch err := CheckName(c.name); {
		case c.dead:
		case ok && err == nil && !twice:
			want[c.name] = h.ttyPath(n)
		case !ok || known || c.name == "":
		case twice:
			h.Log.Warn("two channels have one name", "console", c.id, "name", c.name)
		default:
			h.Log.Warn("a console has no link", "console", c.id, "reason", err)
		}
	}
	return want
}

// moved is the consoles whose terminal has hung up, which is closed, or all of
// them when the guest was restored while nobody held the terminals. The kernel
// leaves dead ones alone.
func (h *Holder) moved(domid string, now []console) map[key]bool {
	moved := make(map[key]bool)
	for k, n := range h.of {
		t, held := h.held[n]
		switch {
		case held && t.hungUp():
			moved[k] = true
			t.close()
			delete(h.held, n)
		case !held && h.domid != domid:
			moved[k] = true
		}
	}
	for _, c := range now {
		if c.dead {
			delete(moved, c.key())
		}
	}
	return moved
}

// unlink removes the links of terminals that have hung up, so that programs see
// that the next ones are new.
func (h *Holder) unlink(now []console, moved map[key]bool) error {
	for _, c := range now {
		if moved[c.key()] && CheckName(c.name) == nil {
			if err := os.Remove(filepath.Join(h.Dir, c.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// check opens the terminals that were predicted. One that is not there cannot be
// opened, and all that others have are held already: so when the prediction fails,
// those that can be opened are the right ones. It takes consoles out of after that
// have no terminal yet, and reports whether there are any.
func (h *Holder) check(after map[key]int, moved map[key]bool, now []console) (pending bool) {
	var sought []key // in the order of bind, as predict leaves now
	settled := make(map[int]bool)
	wrong := false
	for _, c := range now {
		n, ok := after[c.key()]
		if !ok {
			continue // an eighth one, which can have none
		}
		if c.dead {
			settled[n] = true
			continue
		}
		held := h.take(n, c.name != "")
		if was, known := h.of[c.key()]; known && was == n && held && !moved[c.key()] {
			settled[n] = true
			continue
		}
		sought = append(sought, c.key())
		wrong = wrong || !held
	}
	if !wrong {
		return false
	}
	var found []int
	for n := h.first; n < ttys; n++ {
		if !settled[n] && h.take(n, true) {
			found = append(found, n)
		}
	}
	other := h.otherwise(moved, now)
	var fits []int
	for _, k := range sought {
		fits = append(fits, other[k])
	}
	if slices.Sort(fits); !slices.Equal(fits, found) {
		clear(other)
	}
	for i, k := range sought {
		delete(after, k)
		if len(found) != len(sought) {
			continue
		}
		after[k] = found[i]
		if n, ok := other[k]; ok {
			after[k] = n
		}
		h.Log.Info("terminal found by opening", "console", k.id, "terminal", after[k])
	}
	return len(found) != len(sought)
}

// otherwise is the prediction if what is gone was unplugged before the guest was
// restored, and not after it.
func (h *Holder) otherwise(moved map[key]bool, now []console) map[key]int {
	before := make(map[key]int)
	for _, c := range now {
		if n, ok := h.of[c.key()]; ok {
			before[c.key()] = n
		}
	}
	return predict(before, moved, slices.Clone(now), h.first)
}

// take holds a terminal, and reports whether there is one. That of a console
// without a name is no channel's, and stays as it is.
func (h *Holder) take(n int, raw bool) bool {
	if h.held[n] != nil {
		return true
	}
	if h.up && h.lingers(n) {
		return false
	}
	t, err := holdTTY(h.ttyPath(n), raw, h.wakeUp)
	if err != nil {
		if !gone(err) && h.said[n] != err.Error() {
			h.said[n] = err.Error()
			h.Log.Warn("terminal not held", "error", err)
		}
		return false
	}
	delete(h.said, n)
	h.held[n] = t
	return true
}

// lingers reports whether a program has a terminal open that we have not, and so,
// in all likelihood, the deaf rest of one that has hung up: opening it now would
// give us that too. It gets some time to let go.
func (h *Holder) lingers(n int) bool {
	path, err := filepath.EvalSymlinks(h.ttyPath(n))
	if err != nil || !openers(map[string]bool{path: true})[path] {
		delete(h.since, n)
		return false
	}
	if h.since[n].IsZero() {
		h.since[n] = time.Now()
	}
	if time.Since(h.since[n]) < patience {
		return true
	}
	h.Log.Warn("a program keeps a terminal open that has hung up", "terminal", path)
	return false
}

package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xenstore"
)

// A console without a terminal is looked for again after retryPause, and ever more
// seldom up to slowPause.
const (
	retryPause = 100 * time.Millisecond
	slowPause  = 3 * time.Second
)

// patience is how long a channel may be without a link in silence.
const patience = 3 * time.Second

// setupLooks is how often Setup looks for what is just coming.
const setupLooks = 10

// ErrHeld means that another Holder makes the links already.
var ErrHeld = errors.New("guest: a holder is running")

// Config is what a Holder works with. Only Store is needed.
type Config struct {
	Store *xenstore.Store // the guest's own
	// Dir, unless empty, is where the links are instead of [Dir].
	Dir string
	Log *slog.Logger

	sysfs, irqs, dev, run string // other places, for tests
	// handler is who has asked for the interrupt of a directory.
	handler   func(dir string) string
	abandoned time.Duration // instead of abandonedAfter
	// driver writes a device's name to a file of the driver's, bind or unbind.
	driver func(file, id string) error
}

// Holder makes the links, and knows which console has which terminal.
//
// It believes only what it has seen: a terminal is that of the interrupt that got a
// handler when the holder opened it, and an interrupt is a console's by the order in
// which both were made. An interrupt never becomes another console's, and a
// terminal that we hold another's only by hanging up, which every look sees, however much
// has happened since the one before.
type Holder struct {
	Config
	first   int  // lowest terminal for channels
	ordered bool // the kernel shows interrupts, and in which order they came
	saved        // what the next holder will know too
	// hold says that terminals are kept open.
	hold    bool
	held    map[int]*terminal
	use     *usage
	looked  bool
	now     map[key]irq       // each console's interrupt
	xens    map[irq]bool      // interrupts that were looked at: whether they are Xen's
	wake    chan struct{}     // capacity 1
	said    map[int]string    // why a terminal could not be opened
	lacking map[key]time.Time // since when a channel has no link; zero: that was said
	// released are devices that were taken from the driver, and when.
	released map[string]time.Time
	unsure   map[key]time.Time // since when
}

// Setup makes the links once. It keeps nothing open, so that a terminal may echo until
// its user has set raw mode, what the host has sent before is lost when it opens a
// terminal for the first time, and nobody takes away a link that has become wrong before
// it is called again: a running Holder is better.
func Setup(ctx context.Context, c Config) error {
	h, unlock, err := newHolder(ctx, c)
	if err != nil {
		return err
	}
	defer unlock()
	defer h.closeAll()
	for range setupLooks {
		if pending, err := h.pass(ctx); err != nil || !pending {
			return err
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (h *Holder) closeAll() {
	for _, t := range h.held {
		t.close()
	}
}

// Hold makes the links, keeps each terminal open and raw, and tells the host
// who has one open, until ctx ends: then it removes the links, which nobody would
// put right. ready is called when all is up that is there.
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
	defer h.closeAll()
	defer func() { _ = link(h.Dir, nil) }()
	pause := retryPause
	for {
		pending, err := h.pass(ctx)
		if err == nil {
			err = h.use.publish(ctx)
		}
		if err != nil {
			return err
		}
		if ready != nil && (!pending || pause == slowPause) {
			ready()
			ready = nil
		}
		var again <-chan time.Time
		if pending {
			again = time.After(pause)
			pause = min(2*pause, slowPause)
		} else {
			pause = retryPause
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
		Config: c, held: make(map[int]*terminal), wake: make(chan struct{}, 1),
		said: make(map[int]string), lacking: make(map[key]time.Time), released: make(map[string]time.Time),
	}
	for at, otherwise := range map[*string]string{&h.Dir: Dir, &h.sysfs: driverDir, &h.irqs: irqDir, &h.dev: "/dev", &h.run: "/run/xenchan-guest"} {
		if *at == "" {
			*at = otherwise
		}
	}
	if h.abandoned == 0 {
		h.abandoned = abandonedAfter
	}
	if h.driver == nil {
		h.driver = h.writeDriver
	}
	if h.handler == nil {
		h.handler = handler
	}
	if h.ordered = ordered(h.irqs); !h.ordered && h.Log != nil {
		h.Log.Warn("this kernel does not show which terminal a console has (Linux 4.14 does): there can be a link for one channel alone")
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
	if err := h.letGo(); err != nil {
		return false, err
	}
	v, places, ok, err := h.find(ctx)
	if err == nil && ok && h.hold {
		// First, before there is somebody new whose event channel that could close.
		if freed, err := h.release(ctx, v.consoles); err != nil || freed {
			h.wakeUp()
			return true, err
		}
	}
	if err == nil && ok && lacks(v, places) && h.take(places) {
		v, places, ok, err = h.find(ctx)
	}
	if err != nil || !ok {
		return true, err
	}
	for _, c := range v.consoles {
		if t := h.held[places[c.key()]]; t != nil && c.life == sure {
			t.setRaw(c.name != "")
		}
	}
	h.use.channels(v.consoles, places, v.domid)
	if err := link(h.Dir, h.links(v.consoles, places)); err != nil {
		return false, err
	}
	pending = lacks(v, places)
	if h.hold {
		revived, err := h.revive(ctx)
		if err != nil {
			return false, err
		}
		pending = pending || revived || len(h.unsure) > 0
	}
	return pending, h.save(h.statePath())
}

// find looks, and finds the places of the consoles by what it knows. ok is false when
// too much was moving.
func (h *Holder) find(ctx context.Context) (v view, places map[key]int, ok bool, err error) {
	v, ok, err = h.look(ctx)
	if err != nil || !ok {
		return v, nil, false, err
	}
	for i := range h.owners {
		if !v.has(i) {
			delete(h.owners, i)
		}
	}
	h.now = make(map[key]irq)
	if h.ordered {
		h.now = match(v.consoles, v.lines, h.owners)
	} else if len(v.consoles) == 1 && len(v.lines) == 1 && v.consoles[0].life == sure {
		h.now[v.consoles[0].key()] = v.lines[0].irq
	}
	places = make(map[key]int)
	for k, i := range h.now {
		h.owners[i] = k
		for n, its := range h.seen {
			if its == i && (h.held[n] != nil || !h.hold) {
				places[k] = n
			}
		}
	}
	return v, places, true, nil
}

// lacks reports whether a console has no terminal that is known.
func lacks(v view, places map[key]int) bool {
	return slices.ContainsFunc(v.consoles, func(c console) bool {
		_, ok := places[c.key()]
		return c.life == sure && !ok
	})
}

// letGo removes the links to terminals that have hung up, and lets go of those. Links are
// first: whoever opens a terminal that is held still gets the deaf rest of it at worst.
func (h *Holder) letGo() error {
	live := make(map[string]bool)
	var gone []int
	for n := range h.seen {
		t := h.held[n]
		switch {
		case t != nil && t.hungUp():
			gone = append(gone, n)
		case t != nil || !h.hold || !h.looked:
			live[h.ttyPath(n)] = true // if it is not, the first look says so
		}
	}
	if err := unlink(h.Dir, live); err != nil {
		return err
	}
	for _, n := range gone {
		h.drop(n)
	}
	h.looked = true
	return nil
}

// links is the channels' names and terminals. What has none is said once.
func (h *Holder) links(now []console, places map[key]int) map[string]string {
	want := make(map[string]string)
	lacking := make(map[key]time.Time)
	for _, c := range now {
		n, ok := places[c.key()]
		_, twice := want[c.name]
		bad := CheckName(c.name)
		since, seen := h.lacking[c.key()]
		switch {
		case c.life != sure || c.name == "":
			continue
		case bad == nil && ok && !twice:
			want[c.name] = h.ttyPath(n)
			continue
		case !seen:
			since = time.Now()
		}
		why := bad
		if twice {
			why = errors.New("another channel has that name")
		} else if why == nil && time.Since(since) > patience {
			why = h.why(c)
		}
		if why != nil && !since.IsZero() {
			h.Log.Warn("a channel has no link", "console", c.id, "name", c.name, "reason", why)
			since = time.Time{}
		}
		lacking[c.key()] = since
	}
	h.lacking = lacking
	return want
}

// why is the reason for which a channel has no link.
func (h *Holder) why(c console) error {
	i, ok := h.now[c.key()]
	switch {
	case ok:
		return fmt.Errorf("no terminal is known to be that of its interrupt %d: a program may have it open, or all %d terminals are taken", i.number, ttys)
	case h.ordered:
		return errors.New("what has come and gone here can have been in several orders, and so its terminal be one of several")
	}
	return errors.New("this kernel does not show which terminal it has")
}

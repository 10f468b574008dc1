// Package watch follows the channels of a host. What xenstore knows, it takes from
// there, with or without a daemon: channels that come and go, and the states of
// both halves. Clients, guests and losses come from the daemon's event stream
// whenever a daemon answers; what happened while none did is told as one change
// when the next is there.
package watch

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// Config says what to watch.
type Config struct {
	Tools *toolstack.Toolstack
	// Wants says which channels are watched; nil is all of them.
	Wants func(toolstack.Channel) bool
	// Now has the channels that are there told first, as present, and then
	// whether a daemon answers.
	Now bool
}

const (
	// retry is how soon a daemon that does not answer is asked again.
	retry = 250 * time.Millisecond
	// calm bounds how often a guest can have a state told.
	calm = 10 * time.Millisecond
)

// key is a console device.
type key struct {
	dom xen.DomID
	dev int
}

// watcher is one Run. Its maps are for the goroutine of Run alone.
type watcher struct {
	Config
	tell  func(channel.Event) error
	group sync.WaitGroup

	known map[key]*followed
	shown map[key]*followed     // also what is gone: its last events may come late
	last  map[key]daemon.Status // as far as it was told

	states  chan stateChange
	daemons chan channel.Event
}

// followed is a channel that is there.
type followed struct {
	toolstack.Channel
	instance string
	wanted   bool
	old      bool // it was there before the watch
	stop     context.CancelFunc
}

type stateChange struct {
	of          *followed
	back, front *int
}

// Run tells what happens until the context ends, tell fails, or xenstore is lost.
func Run(ctx context.Context, c Config, tell func(channel.Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{
		Config: c, tell: tell,
		known: make(map[key]*followed), shown: make(map[key]*followed), last: make(map[key]daemon.Status),
		states: make(chan stateChange), daemons: make(chan channel.Event),
	}
	defer w.group.Wait()
	defer cancel()
	nodes, err := c.Tools.Store.Watch(ctx, "/libxl")
	if err != nil {
		return err
	}
	defer nodes.Close()
	w.group.Go(func() { w.followDaemon(ctx) })
	if err := w.begin(ctx); err != nil {
		return err
	}
	for {
		err := w.next(ctx, nodes)
		if err != nil {
			return err
		}
	}
}

// begin finds what is there.
func (w *watcher) begin(ctx context.Context) error {
	var first channel.Event // whether a daemon answers
	select {
	case first = <-w.daemons:
	case <-ctx.Done():
		return ctx.Err()
	}
	rows, _ := daemon.Query(ctx, w.Tools.RunDir) // none without a daemon
	for _, s := range rows {
		w.last[key{xen.DomID(s.DomID), s.DevID}] = s
	}
	if err := w.lookAtAll(ctx, channel.EventPresent); err != nil || !w.Now {
		return err
	}
	first.Time = time.Now()
	return w.tell(first)
}

// next waits for something to happen and tells it.
func (w *watcher) next(ctx context.Context, nodes *xenstore.Watch) error {
	select {
	case _, ok := <-nodes.C():
		if !ok {
			return nodes.Err()
		}
		return w.changed(ctx, nodes.Take())
	case s := <-w.states:
		k := key{xen.DomID(s.of.DomID), s.of.DevID}
		if w.known[k] != s.of {
			return nil // of a channel that is gone
		}
		e := event(channel.EventState, s.of.Channel)
		e.State, e.FrontendState = s.back, s.front
		return w.tell(e)
	case e := <-w.daemons:
		return w.fromDaemon(ctx, e)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// changed looks at the devices that changed paths belong to.
func (w *watcher) changed(ctx context.Context, paths []string) error {
	seen := make(map[string]bool)
	for _, p := range paths {
		parts := strings.Split(p, "/") // "", libxl, domid, device, console, devid, …
		if len(parts) < 4 {
			return w.lookAtAll(ctx, channel.EventAttach)
		}
		if parts[3] != "device" || seen[parts[2]] {
			continue
		}
		seen[parts[2]] = true
		if err := w.lookAt(ctx, parts[2], channel.EventAttach); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) lookAtAll(ctx context.Context, found channel.EventKind) error {
	domains, err := w.Tools.Domains(ctx)
	if err != nil {
		return err
	}
	alive := make(map[xen.DomID]bool)
	for _, d := range domains {
		alive[d.ID] = true
		if err := w.compare(ctx, d, found); err != nil {
			return err
		}
	}
	for k := range w.known {
		if !alive[k.dom] {
			if err := w.compare(ctx, toolstack.Domain{ID: k.dom}, found); err != nil {
				return err
			}
		}
	}
	return nil
}

// lookAt looks at one domain, which may be gone.
func (w *watcher) lookAt(ctx context.Context, domid string, found channel.EventKind) error {
	id, err := xen.ParseDomID(domid)
	if err != nil {
		return nil
	}
	d, err := w.Tools.Resolve(ctx, domid)
	if errors.Is(err, toolstack.ErrNoDomain) {
		d, err = toolstack.Domain{ID: id}, nil
	}
	if err != nil {
		return err
	}
	return w.compare(ctx, d, found)
}

// compare tells which channels of a domain have come and gone.
func (w *watcher) compare(ctx context.Context, d toolstack.Domain, found channel.EventKind) error {
	channels, err := w.Tools.Channels(ctx, d)
	if err != nil {
		return err
	}
	now := make(map[key]followed)
	v := xenstore.NewValues(ctx, w.Tools.Store)
	for _, c := range channels {
		now[key{d.ID, c.DevID}] = followed{
			Channel: c, instance: v.Get(c.Backend + "/" + toolstack.Instance),
			wanted: w.Wants == nil || w.Wants(c), old: found == channel.EventPresent,
		}
	}
	if v.Err() != nil {
		return v.Err()
	}
	for k, f := range w.known {
		if n, ok := now[k]; k.dom == d.ID && (!ok || n.instance != f.instance || n.Name != f.Name) {
			if err := w.gone(k, f); err != nil {
				return err
			}
		}
	}
	for _, c := range channels { // in order
		k := key{d.ID, c.DevID}
		if f, ok := now[k]; ok && w.known[k] == nil {
			if err := w.come(ctx, k, &f, found); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *watcher) gone(k key, f *followed) error {
	f.stop()
	delete(w.known, k)
	delete(w.last, k)
	return w.tellIf(f, event(channel.EventDetach, f.Channel))
}

func (w *watcher) come(ctx context.Context, k key, f *followed, found channel.EventKind) error {
	if s, ok := w.last[k]; ok {
		s.Fill(&f.Info)
	}
	w.known[k], w.shown[k] = f, f
	ctx, f.stop = context.WithCancel(ctx)
	if f.wanted {
		w.group.Go(func() { w.followStates(ctx, f) })
	}
	if found == channel.EventPresent && !w.Now {
		return nil
	}
	e := event(found, f.Channel)
	e.Channel = &f.Info
	return w.tellIf(f, e)
}

// tellIf tells an event of a channel that is watched.
func (w *watcher) tellIf(f *followed, e channel.Event) error {
	if !f.wanted {
		return nil
	}
	return w.tell(e)
}

// followStates reports each change of either state that it sees: what changes
// back at once may not be seen.
func (w *watcher) followStates(ctx context.Context, f *followed) {
	back, front := f.State, f.FrontendState
	for ctx.Err() == nil {
		err := w.Tools.Store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
			v := xenstore.NewValues(ctx, r)
			b, f := toolstack.State(v, f.Backend+"/state"), toolstack.State(v, f.Frontend+"/state")
			changed := b != nil && (!same(b, back) || !same(f, front)) // or it has gone
			if changed && v.Err() == nil {
				back, front = b, f
			}
			return changed, v.Err()
		})
		if err != nil {
			return // the store is lost, as Run sees too, or the channel gone
		}
		select {
		case w.states <- stateChange{f, back, front}:
		case <-ctx.Done():
		}
		select {
		case <-time.After(calm):
		case <-ctx.Done():
		}
	}
}

func same(a, b *int) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

// event is an event of a channel.
func event(kind channel.EventKind, c toolstack.Channel) channel.Event {
	return channel.Event{Time: time.Now(), Kind: kind, DomID: c.DomID, Domain: c.Domain, DevID: c.DevID, Name: c.Name}
}

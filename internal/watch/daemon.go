package watch

import (
	"context"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/xen"
)

// followDaemon passes on the events of whatever daemon answers. The first event
// says whether one does, and from then on one comes whenever that changes.
func (w *watcher) followDaemon(ctx context.Context) {
	told, running := false, false
	say := func(e channel.Event) error {
		select {
		case w.daemons <- e:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for ctx.Err() == nil {
		daemon.Subscribe(ctx, w.Tools.RunDir, func(e channel.Event) error {
			told, running = true, true
			return say(e)
		})
		if running || !told {
			told, running = true, false
			no := false
			say(channel.Event{Time: time.Now(), Kind: channel.EventDaemon, Running: &no})
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
		}
	}
}

// fromDaemon tells an event of the daemon.
func (w *watcher) fromDaemon(ctx context.Context, e channel.Event) error {
	e.Seq = 0 // of one daemon's; its gaps are told as missed
	switch e.Kind {
	case channel.EventMissed:
		if err := w.tell(e); err != nil {
			return err
		}
		return w.catchUp(ctx)
	case channel.EventDaemon:
		if err := w.tell(e); err != nil || !*e.Running {
			return err
		}
		return w.catchUp(ctx)
	}
	return w.tellOf(ctx, key{xen.DomID(e.DomID), e.DevID}, e)
}

// tellOf tells an event of a channel, if it is one of those that are watched. That
// the channel was attached is told before.
func (w *watcher) tellOf(ctx context.Context, k key, e channel.Event) error {
	if w.known[k] == nil {
		if err := w.lookAt(ctx, k.dom.String(), channel.EventAttach); err != nil {
			return err
		}
	}
	f := w.shown[k]
	if f == nil || f.Name != e.Name {
		return nil
	}
	if w.known[k] == nil && e.Kind == channel.EventGuest {
		return nil // with its nodes goes what the guest has said there
	}
	if w.known[k] != nil {
		s := w.last[k]
		switch {
		case e.Clients != nil:
			s.Clients = *e.Clients
		case e.Kind == channel.EventGuest:
			s.Guest = e.Guest
		case e.Dropped != nil:
			s.Dropped = *e.Dropped
		case e.AllSkipped != nil:
			s.Skipped = *e.AllSkipped
		case e.Observers != nil:
			s.Observers = *e.Observers
		}
		w.last[k] = s
	}
	e.Domain = f.Domain
	return w.tellIf(f, e)
}

// catchUp tells what has changed while no event came through.
func (w *watcher) catchUp(ctx context.Context) error {
	rows, err := daemon.Query(ctx, w.Tools.RunDir)
	if err != nil {
		return nil // it is gone again, and the next one will be asked
	}
	for _, s := range rows {
		k := key{xen.DomID(s.DomID), s.DevID}
		f := w.known[k]
		if f == nil {
			continue
		}
		before, told := w.last[k]
		if !told && f.old {
			before.Dropped, before.Skipped = s.Dropped, s.Skipped // that was before us
		}
		for _, e := range changes(before, s) {
			e.Name = f.Name
			e.DomID, e.DevID, e.Time = s.DomID, s.DevID, time.Now()
			if err := w.tellOf(ctx, k, e); err != nil {
				return err
			}
		}
		w.last[k] = s
	}
	return nil
}

// changes are the events between two looks at a channel.
func changes(before, now daemon.Status) (events []channel.Event) {
	if now.Clients != before.Clients {
		e := channel.Event{Kind: channel.EventClient, Change: channel.ClientConnected, Clients: &now.Clients, WaitingClients: now.Waiting}
		if now.Clients < before.Clients {
			e.Change = channel.ClientLeft
		}
		events = append(events, e)
	}
	if now.Guest != before.Guest && (before.Guest != "" || now.Guest != channel.GuestUnknown) {
		events = append(events, channel.Event{Kind: channel.EventGuest, Guest: now.Guest})
	}
	if now.Dropped > before.Dropped {
		events = append(events, channel.Event{
			Kind: channel.EventLoss, Dropped: &now.Dropped,
			Lost: &channel.Loss{Bytes: int64(now.Dropped - before.Dropped), From: oldest(before), To: oldest(now)},
		})
	}
	if now.Skipped > before.Skipped {
		events = append(events, channel.Event{Kind: channel.EventSkip, Skipped: now.Skipped - before.Skipped, AllSkipped: &now.Skipped})
	}
	if now.Observers != before.Observers {
		e := channel.Event{Kind: channel.EventObserver, Change: channel.ClientConnected, Observers: &now.Observers}
		if now.Observers < before.Observers {
			e.Change = channel.ClientLeft
		}
		events = append(events, e)
	}
	return events
}

// oldest is the position of the oldest byte that is still to be had: whatever is
// lost between two looks was between the two.
func oldest(s daemon.Status) int64 { return int64(s.GuestToHost - s.Spooled) }

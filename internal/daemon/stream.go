package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/xenchan/xenchan/channel"
)

// maxEvent bounds one event of a stream, in bytes.
const maxEvent = 64 << 10

// serveEvents is GET /v1/events: one JSON object a line for as long as the
// subscriber stays. The first says that the daemon runs, with the number of the
// last event before.
func (d *Daemon) serveEvents(w http.ResponseWriter, r *http.Request) {
	sub, seq := d.events.subscribe()
	if sub == nil {
		http.Error(w, "too many subscribers", http.StatusServiceUnavailable)
		return
	}
	defer d.events.unsubscribe(sub)
	looked := make(chan struct{})
	select {
	case d.events.looks <- looked:
		<-looked
	case <-r.Context().Done():
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	running := true
	events := []channel.Event{{Seq: seq, Time: time.Now(), Kind: channel.EventDaemon, Running: &running}}
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	for {
		for _, e := range events {
			if out.Encode(e) != nil {
				return
			}
		}
		if flush.Flush() != nil {
			return
		}
		select {
		case <-sub.ready:
			events = d.events.take(sub)
		case <-r.Context().Done():
			return
		}
	}
}

// observe tells what nothing tells by itself, for as long as anybody wants to
// know: what is inferred about guests, and clients that wait for their turn.
func (d *Daemon) observe(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		var looked chan struct{}
		select {
		case looked = <-d.events.looks:
		case <-ctx.Done():
			return ctx.Err()
		}
		known := d.polled()
		close(looked)
		for d.events.watched() {
			select {
			case <-tick.C:
				known = d.compare(known)
			case looked = <-d.events.looks: // the last look will do
				close(looked)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// polled is the status of all devices.
func (d *Daemon) polled() map[*device]Status {
	all := make(map[*device]Status)
	for _, dev := range d.snapshot() {
		if s, ok := dev.status(); ok {
			all[dev] = s
		}
	}
	return all
}

// compare tells what has changed since the last look, and returns this one.
func (d *Daemon) compare(known map[*device]Status) map[*device]Status {
	now := d.polled()
	for dev, s := range now {
		before, ok := known[dev]
		if !ok {
			before.Guest = channel.GuestUnknown
		}
		if s.Guest != before.Guest {
			e := dev.event(channel.EventGuest)
			e.Guest = s.Guest
			d.events.publish(e)
		}
		if s.Waiting != nil && *s.Waiting > 0 && (before.Waiting == nil || *s.Waiting > *before.Waiting) {
			e := dev.event(channel.EventClient)
			e.Change, e.Clients, e.WaitingClients = channel.ClientWaiting, &s.Clients, s.Waiting
			d.events.publish(e)
		}
	}
	return now
}

// Subscribe follows the events of the daemon of a run directory, until the
// context or the daemon ends or tell fails. The first event says that the daemon
// runs. It returns an error in every case, which says why.
func Subscribe(ctx context.Context, runDir string, tell func(channel.Event) error) error {
	c := clientOf(statusPath(runDir))
	defer c.CloseIdleConnections()
	body, err := request(ctx, c, statusPath(runDir), http.MethodGet, "/v1/events")
	if err != nil {
		return err
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		var e channel.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("the daemon's event: %w", err)
		}
		if err := tell(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the daemon's events: %w", err)
	}
	return fmt.Errorf("the daemon's events: %w", io.ErrUnexpectedEOF)
}

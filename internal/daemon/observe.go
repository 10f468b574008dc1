package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/xenchan/xenchan/channel"
)

// Observed is what an observer gets at a time.
type Observed struct {
	// Channel is the same for as long as the channel is the same.
	Channel string `json:"channel,omitempty"`
	// At is the position of the data: how many bytes the guest has sent before. What
	// is between the end of the data before and At is lost for this observer.
	At   int64  `json:"at"`
	Data []byte `json:"data,omitempty"`
	// Ended says that the channel is no more, and this the last of it.
	Ended bool `json:"ended,omitempty"`
}

// serveObserver streams what the guest sends from now on, one JSON object a line.
// The first says where that begins. The observer keeps nobody waiting.
func (d *Daemon) serveObserver(w http.ResponseWriter, r *http.Request, dev *device, who peer) {
	rules, refit := dev.fence.watch()
	if rules != nil {
		http.Error(w, fmt.Sprintf("%s says who may ask the agent there what, and an observer would see the replies to others", rules.Where()), http.StatusForbidden)
		return
	}
	if d.observers.Add(1) > maxObservers {
		d.observers.Add(-1)
		http.Error(w, "there are too many observers", http.StatusServiceUnavailable)
		return
	}
	defer d.observers.Add(-1)
	x := dev.observers.add(func() int64 { return dev.spool.Positions().End })
	defer func() { dev.observed(who, channel.ClientLeft) }()
	defer dev.observers.remove(x)
	dev.observed(who, channel.ClientConnected)
	w.Header().Set("Content-Type", "application/x-ndjson")
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	for {
		select {
		case <-x.ready:
		case <-refit:
		case <-r.Context().Done():
			return
		}
		select {
		case <-refit: // what it would get now may be for who has asked
			return
		default:
		}
		at, data, end, ended := dev.observers.take(x)
		pieces := []Observed{{Channel: dev.spec.Name + " " + dev.instance, At: at, Data: data}}
		if at+int64(len(data)) < end {
			pieces = append(pieces, Observed{At: end}) // tells of the loss now
		}
		pieces[len(pieces)-1].Ended = ended
		for _, p := range pieces {
			if out.Encode(p) != nil {
				return
			}
		}
		if flush.Flush() != nil || ended {
			return
		}
	}
}

// observed tells of an observer that has come or left.
func (d *device) observed(by peer, change string) {
	n := int(d.observers.n.Load())
	e := d.event(channel.EventObserver)
	e.PID, e.UID, e.Observers, e.Change = &by.PID, &by.UID, &n, change
	d.daemon.events.publish(e)
	d.log.Info("observer "+change, "uid", by.UID, "gid", by.GID, "pid", by.PID, "observers", n)
}

// skipped is the answer to who has asked to skip what is spooled.
type skipped struct {
	Bytes int64 `json:"skipped_bytes"`
}

// serveSkip gives up what waits for the next client, if there is none now.
func (d *Daemon) serveSkip(w http.ResponseWriter, _ *http.Request, dev *device, _ peer) {
	if !dev.reader.TryLock() {
		http.Error(w, errClientHasIt.Error(), http.StatusConflict)
		return
	}
	n, err := dev.skip()
	dev.reader.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(skipped{n})
}

var errClientHasIt = errors.New("it has a client, whose bytes they are")

// skip gives up what is spooled. The caller holds reader.
func (d *device) skip() (int64, error) {
	d.mu.Lock()
	ep := d.endpoint
	d.mu.Unlock()
	unread := 0
	if t, ok := ep.(interface{ Discard() (int, error) }); ok {
		var err error
		if unread, err = t.Discard(); err != nil {
			return 0, err
		}
	}
	n, err := d.pipes.skip(unread)
	if n > 0 {
		all := uint64(d.spool.Positions().Skipped)
		e := d.event(channel.EventSkip)
		e.Skipped, e.AllSkipped = uint64(n), &all
		d.daemon.events.publish(e)
		d.log.Info("bytes of the guest are skipped, as a client wanted", "bytes", n, "skipped", all)
	}
	return n, err
}

// Channel names a channel to the daemon of a run directory.
type Channel struct {
	RunDir string
	DomID  uint16
	DevID  int
	Name   string
}

func (c Channel) request(what string) string {
	return fmt.Sprintf("/v1/channels/%d/%d/%s?name=%s", c.DomID, c.DevID, what, url.QueryEscape(c.Name))
}

// Observe tells what the channel's guest sends from now on, until the context or the
// daemon ends or tell fails, or the channel, which is told last. It returns an error
// in every other case; one that wraps [ErrRefused] is final.
func (c Channel) Observe(ctx context.Context, tell func(Observed) error) error {
	public := clientOf(publicPath(c.RunDir))
	defer public.CloseIdleConnections()
	body, err := request(ctx, public, publicPath(c.RunDir), http.MethodGet, c.request("observe"))
	if err != nil {
		return err
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 2*observerBuffer)
	for lines.Scan() {
		var o Observed
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return fmt.Errorf("the daemon's answer: %w", err)
		}
		if err := tell(o); err != nil || o.Ended {
			return err
		}
	}
	return fmt.Errorf("the daemon's answer: %w", errors.Join(lines.Err(), io.ErrUnexpectedEOF))
}

// Skip gives up what waits for the channel's next client, and says how much that was.
// It is refused while there is a client.
func (c Channel) Skip(ctx context.Context) (int64, error) {
	var s skipped
	err := call(ctx, publicPath(c.RunDir), http.MethodPost, c.request("skip"), &s)
	return s.Bytes, err
}

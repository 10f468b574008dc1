package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/xenchan/xenchan/agent/firewall"
	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/endpoint/unixsock"
	"github.com/xenchan/xenchan/internal/sys"
)

// deniedPause is how long a client waits that has asked for what it may not: so
// nobody fills the audit log with that.
const deniedPause = 100 * time.Millisecond

// errNoPeer is a channel whose clients nobody can tell apart.
var errNoPeer = errors.New("a terminal does not say who its client is, and the channel has an agent firewall: make it connection=socket, or take it out of the file")

// fence is what the agent firewall says about a device.
type fence struct {
	reading sync.Mutex // held from a look at what is in force until it is here, so that the last one stays

	mu      sync.Mutex
	follows bool            // rules are kept as the files are; guarded by mu, as all below
	rules   *firewall.Rules // nil: there is none for this channel
	refit   chan struct{}   // closed when there is one and was none, or the other way; nil while nobody waits
	domain  string          // its name, where there are rules for anybody
	uuid    string
}

func (f *fence) get() *firewall.Rules {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rules
}

// watch is get, and a channel that is closed when there is a firewall and was none, or the
// other way.
func (f *fence) watch() (*firewall.Rules, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refit == nil {
		f.refit = make(chan struct{})
	}
	return f.rules, f.refit
}

func (f *fence) identity() (domain, uuid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.domain, f.uuid
}

func (f *fence) put(domain, uuid string, r *firewall.Rules) (refit bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	refit = (r == nil) != (f.rules == nil)
	if refit && f.refit != nil {
		close(f.refit)
		f.refit = nil
	}
	f.domain, f.uuid, f.rules = domain, uuid, r
	return refit
}

// readRules finds out what holds for the channel, before anybody can connect, and has
// it followed from now on.
func (d *device) readRules(ctx context.Context) error {
	f := &d.fence
	f.reading.Lock()
	defer f.reading.Unlock()
	f.mu.Lock()
	f.follows = true
	f.mu.Unlock()
	set, _ := d.daemon.Firewall.Get()
	if set.Empty() {
		return nil
	}
	name, uuid, _, err := d.daemon.identity(ctx, d.dom)
	if err != nil {
		return err
	}
	f.put(name, uuid, set.For(name, uuid, d.spec.Name))
	d.daemon.renamed.mark(d.dom)
	return nil
}

// heed keeps the rules as a set of them has it, unless it is no longer in force. known
// says that the domain has this name, and not the one it had.
func (d *device) heed(set *firewall.Set, name, uuid string, known bool) {
	f := &d.fence
	f.reading.Lock()
	defer f.reading.Unlock()
	f.mu.Lock()
	follows := f.follows
	f.mu.Unlock()
	if now, _ := d.daemon.Firewall.Get(); !follows || now != set {
		return // its own look comes, or another set
	}
	if !known {
		name, uuid = f.identity()
	}
	if f.put(name, uuid, set.For(name, uuid, d.spec.Name)) {
		d.fitAnew()
	}
}

// unkeep lets go of what was let in, or made, under other rules: clients, and the
// place where they connect. The bytes that are on their way stay.
func (d *device) unkeep(sockets bool) {
	for _, what := range d.keep.all() {
		if what == keptIn || what == keptOut || !sockets && strings.HasPrefix(what, keptSocket) {
			continue
		}
		d.keep.drop(what)
	}
}

// filtered is a client behind the firewall. It does not outlive the daemon: what it
// has asked is known to this process alone. A client that comes back begins anew.
type filtered struct {
	*unixsock.Client
	log *slog.Logger

	mu      sync.Mutex // held until what the session lets through is written, for its order
	session firewall.Session

	left  []byte // for the guest and not in the pipe yet; for ReadInto alone
	ended error  // there is no more to read; for ReadInto alone
	buf   []byte // for ReadInto alone

	closed context.Context // ends with Close
	close  context.CancelFunc
}

// filter puts the firewall in front of a client, if there is one for the channel.
func (d *device) filter(c endpoint.Client) (endpoint.Client, error) {
	rules := d.fence.get()
	if rules == nil {
		return c, nil
	}
	client, ok := c.(*unixsock.Client)
	if !ok {
		return nil, errNoPeer
	}
	who := client.Peer()
	domain, _ := d.fence.identity()
	log := d.daemon.Audit.With("domid", d.dom, "domain", domain, "channel", d.spec.Name, "uid", who.UID, "gid", who.GID, "pid", who.PID)
	f := &filtered{Client: client, log: log, buf: make([]byte, 4<<10)}
	f.closed, f.close = context.WithCancel(context.Background())
	f.session = firewall.Session{
		Who:   who,
		Rules: d.fence.get,
		Asked: func(c firewall.Call) {
			decision := map[bool]string{true: "allowed", false: "denied"}[c.Allowed]
			log.Info("agent call", "call", c.Number, "command", c.Command, "decision", decision, "by", c.By)
		},
		Answered: func(o firewall.Outcome) {
			log.Info("agent answer", "call", o.Number, "command", o.Command, "result", o.Result, "took", o.Took)
		},
	}
	f.session.Open(rules)
	return f, nil
}

// Handle is nil: the client is not kept for another process.
func (f *filtered) Handle() (*sys.Handle, error) { return nil, nil }

// ReadInto moves what the client sends and may send.
func (f *filtered) ReadInto(p *sys.Pipe, max int) (int, error) {
	for len(f.left) == 0 {
		if f.ended != nil {
			return 0, f.ended
		}
		n, err := f.Read(f.buf)
		f.ended = err
		if err := f.take(f.buf[:n], errors.Is(err, io.EOF)); err != nil {
			f.log.Warn("agent client is closed", "error", err)
			_ = f.Client.Close()
			f.ended = err
		}
	}
	n, err := p.Write(f.left[:min(max, len(f.left))])
	f.left = f.left[n:]
	return n, err
}

// take has the session look at what the client has sent, and at its end.
func (f *filtered) take(p []byte, end bool) error {
	f.mu.Lock()
	denied := f.session.Denied
	toGuest, toClient, err := f.session.FromClient(p)
	if end && err == nil {
		rest, more, finishErr := f.session.Finish()
		toGuest, toClient, err = append(toGuest, rest...), append(toClient, more...), finishErr
	}
	f.left = toGuest
	f.reply(toClient)
	denied = f.session.Denied - denied
	f.mu.Unlock()
	if denied > 0 {
		select {
		case <-time.After(time.Duration(denied) * deniedPause):
		case <-f.closed.Done():
		}
	}
	return err
}

// reply writes to the client; one that has left is noticed elsewhere.
func (f *filtered) reply(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := f.Write(p)
	return err
}

// WriteFrom gives the client the replies that it waits for.
func (f *filtered) WriteFrom(p *sys.Pipe) (int, error) {
	var buf [16 << 10]byte
	n, err := p.Read(buf[:])
	if err != nil {
		return n, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return n, f.reply(f.session.FromGuest(buf[:n]))
}

// WriteFromNow leaves the replies to WriteFrom, which looks at them.
func (f *filtered) WriteFromNow(*sys.Pipe) (int, error) { return 0, nil }

// Unread and Look are 0, and Left says that it had read all: replies are for who has asked.
func (f *filtered) Unread() int            { return 0 }
func (f *filtered) Look() int              { return 0 }
func (f *filtered) Left() (gone, all bool) { return f.Gone(), true }

// Close ends the session too.
func (f *filtered) Close() error {
	f.close()
	err := f.Client.Close() // wakes who writes
	f.mu.Lock()
	defer f.mu.Unlock()
	f.session.Close()
	return err
}

// checkFence refuses a terminal for a channel with a firewall.
func (d *device) checkFence() error {
	rules := d.fence.get()
	if rules == nil || d.spec.Connection == channel.Socket {
		return nil
	}
	return fmt.Errorf("%w (%s)", errNoPeer, rules.Where())
}

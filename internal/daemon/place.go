package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/xenchan/xenchan/endpoint"
)

const (
	// firstRetry is after how long a place on the host is tried again that could not
	// be had, and lastRetry the longest of these times, each twice the one before.
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// errRefit says that a channel gets a firewall, or loses it: who was let in under
// other rules has to come again.
var errRefit = errors.New("the agent firewall of the channel has changed")

// place is where a channel's clients connect: how it comes, who serves there, and how
// it goes. There is a goroutine at it only as long as there is something to do; for
// whoever comes to an idle socket the daemon's doors wait.
type place struct {
	wg sync.WaitGroup // the goroutine that is at it

	mu      sync.Mutex
	working bool        // there is one; guarded by mu, as all below
	again   bool        // something has happened since it last looked
	refit   bool        // the channel has got an agent firewall, or lost it
	over    bool        // nobody is to come any more
	server  *server     // nil while there are no clients
	door    int32       // 0 while there is no socket, or one that needs a goroutine
	retry   *time.Timer // nil while there is nothing to be tried again
	wait    time.Duration
}

// openPlace opens the channel's place on the host. It does not wait for clients.
func (d *device) openPlace() {
	p := &d.place
	p.mu.Lock()
	p.working = true
	p.mu.Unlock()
	ep := d.tryPlace()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refit || ep != nil && (p.door == 0 || d.continues()) {
		p.working = false
		d.attend()
		return
	}
	d.rest()
}

// continues says that there are clients of an earlier daemon, or bytes from them.
func (d *device) continues() bool {
	return len(d.spool.Inbox().Next()) > 0 || len(d.keptClients()) > 0
}

// knock has somebody look at the place.
func (d *device) knock() {
	d.place.mu.Lock()
	defer d.place.mu.Unlock()
	d.attend()
}

// fitAnew closes the place and opens it under other rules.
func (d *device) fitAnew() {
	p := &d.place
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refit = true
	if p.server != nil {
		p.server.stop(errRefit)
	}
	d.attend()
}

// attend is called with place.mu held.
func (d *device) attend() {
	p := &d.place
	p.again = true
	if !p.working && !p.over {
		p.working = true
		p.wg.Go(d.tend)
	}
}

// tend is the goroutine at the place.
func (d *device) tend() {
	for d.goesOn() {
		d.mu.Lock()
		ep := d.endpoint
		d.mu.Unlock()
		if ep == nil {
			ep = d.tryPlace()
		}
		if ep != nil {
			d.serveClients(ep)
		}
	}
}

// goesOn says whether there is something to do at the place. If there is not, the
// goroutine has left it.
func (d *device) goesOn() bool {
	p := &d.place
	p.mu.Lock()
	if p.over || !p.again {
		d.rest()
		p.mu.Unlock()
		return false
	}
	p.again = false
	refit := p.refit
	p.refit = false
	p.mu.Unlock()
	if refit {
		d.leave(true)
		d.setEndpoint(nil, nil)
		d.log.Info("clients have to come again", "why", errRefit)
	}
	return true
}

// rest is called with place.mu held by the goroutine that leaves.
func (d *device) rest() {
	p := &d.place
	p.working = false
	if p.door == 0 || p.over {
		return
	}
	if err := d.daemon.doors.watch(p.door); err != nil && d.daemon.life.Err() == nil {
		d.log.Error("nobody will see the next client", "error", err)
	}
}

// tryPlace opens the place, or goes on with the one that an earlier daemon has left. If
// that fails, it is tried again later; until then the guest's bytes wait in the spool.
func (d *device) tryPlace() endpoint.Endpoint {
	ep, err := d.findPlace()
	p := &d.place
	p.mu.Lock()
	if err != nil {
		p.wait = min(max(2*p.wait, firstRetry), lastRetry)
		if p.retry == nil {
			p.retry = time.AfterFunc(p.wait, d.knock)
		} else {
			p.retry.Reset(p.wait)
		}
	} else {
		p.wait = 0
	}
	wait := p.wait
	p.mu.Unlock()
	d.setEndpoint(ep, err)
	if err != nil {
		d.log.Error("no endpoint yet", "error", err, "again_in", wait)
		return nil
	}
	d.log.Info("serving", "connection", d.spec.Connection, "path", ep.Path())
	return ep
}

func (d *device) findPlace() (endpoint.Endpoint, error) {
	if err := d.checkFence(); err != nil {
		return nil, err
	}
	ep, err := d.openEndpoint()
	if err != nil {
		return nil, d.explainRights(err)
	}
	if quiet, ok := ep.(endpoint.Quiet); ok {
		if err := d.makeDoor(quiet); err != nil { // a goroutine can wait too
			d.log.Warn("the socket keeps a goroutine", "error", err)
		}
	}
	return ep, nil
}

func (d *device) makeDoor(ep endpoint.Quiet) error {
	listener, err := ep.Listener()
	if err != nil {
		return err
	}
	number, err := d.daemon.doors.add(listener, d)
	d.place.mu.Lock()
	defer d.place.mu.Unlock()
	d.place.door = number
	return err
}

// serveClients serves those who are there, and at a place without a door those to come
// too.
func (d *device) serveClients(ep endpoint.Endpoint) {
	p := &d.place
	p.mu.Lock()
	if p.server == nil && !p.over && !p.refit {
		p.server = newServer(d, ep, p.door != 0)
	}
	s := p.server
	p.mu.Unlock()
	if s == nil {
		return
	}
	if s.run(); !s.idle() {
		return
	}
	s.stop(nil)
	s.wg.Wait()
	p.mu.Lock()
	p.server = nil
	p.mu.Unlock()
}

// closePlace ends with all who are there.
func (d *device) closePlace() {
	p := &d.place
	p.mu.Lock()
	p.over = true
	if p.server != nil {
		p.server.stop(nil)
	}
	if p.retry != nil {
		p.retry.Stop()
	}
	p.mu.Unlock()
	p.wg.Wait()
	d.leave(false)
}

// leave leaves the channel's place to the next daemon, if it is kept and the channel
// is still wanted. Otherwise it removes it, and the domain's directory in the run
// directory with the last of its sockets. Nobody else is at the place.
func (d *device) leave(refit bool) {
	p := &d.place
	p.mu.Lock()
	server, door := p.server, p.door
	p.server, p.door = nil, 0
	p.mu.Unlock()
	if server != nil {
		server.wg.Wait()
	}
	if door != 0 {
		d.daemon.doors.remove(door)
	}
	d.mu.Lock()
	ep := d.endpoint
	d.mu.Unlock()
	if ep == nil {
		return
	}
	if refit {
		d.unkeep(true)
	}
	if !refit && d.keep.Keeps() && !d.gone.Load() {
		ep.Leave()
		return
	}
	ep.Close()
	if dir := filepath.Dir(d.spec.Path); filepath.Dir(dir) == d.daemon.RunDir {
		os.Remove(dir) // fails while there is something in it
	}
}

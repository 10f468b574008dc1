package daemon

import (
	"errors"
	"sync"

	"github.com/xenchan/xenchan/xen"
)

// What is needed of descriptors.
const (
	channelFiles = 1 // a channel: its place on the host
	domainFiles  = 2 // the channels of a domain: their events, on an embedded host
	pipeFiles    = 4 // with its first client, for as long as it is there
	clientFiles  = 1 // each client
)

// LeastFiles are enough for one channel with a client.
const LeastFiles = 16

// errFiles says that a client has to wait, in the backlog if it can.
var errFiles = errors.New("there are no descriptors for a further client: raise the limit of open files and restart the daemon")

// files counts the descriptors that channels and their clients have. A quarter of them
// all is for clients, however many channels there are; what channels leave of the rest is
// for clients too, but for an eighth that is kept for channels to come.
type files struct {
	limit int // of them all; 0: as many as anybody wants

	mu       sync.Mutex
	domains  map[xen.DomID]int // channels; guarded by mu, as all below
	channels int               // descriptors of channels and domains
	clients  int               // of clients, and pipes
}

func (f *files) forChannels() int { return f.limit / 4 * 3 }

// channel says whether there are enough for one more of a domain.
func (f *files) channel(dom xen.DomID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.channels + channelFiles
	if f.domains[dom] == 0 {
		n += domainFiles
	}
	if f.limit > 0 && (n > f.forChannels() || n+f.clients > f.limit) {
		return false
	}
	if f.domains == nil {
		f.domains = make(map[xen.DomID]int)
	}
	f.domains[dom]++
	f.channels = n
	return true
}

func (f *files) channelGone(dom xen.DomID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.channels -= channelFiles
	if f.domains[dom]--; f.domains[dom] == 0 {
		delete(f.domains, dom)
		f.channels -= domainFiles
	}
}

// most is how many channels of the domains that have some there would be descriptors
// for; 0 is any number.
func (f *files) most() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.limit == 0 {
		return 0
	}
	return (min(f.forChannels(), f.limit-f.clients) - domainFiles*len(f.domains)) / channelFiles
}

// client says whether there are n more for clients.
func (f *files) client(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	toCome := min(f.limit/8, f.forChannels()-f.channels)
	if f.limit > 0 && f.channels+f.clients+toCome+n > f.limit {
		return false
	}
	f.clients += n
	return true
}

// have counts n more, or less, that are there already.
func (f *files) have(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clients += n
}

package daemon

import (
	"errors"
	"sync"
)

// What is needed of descriptors.
const (
	channelFiles = 3 // a channel: its place on the host, and its events, on an embedded host two
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
	channels int // descriptors; guarded by mu, as all below
	clients  int // of clients, and pipes
}

func (f *files) forChannels() int { return f.limit / 4 * 3 }

// channel says whether there are enough for one more.
func (f *files) channel() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.channels + channelFiles
	if f.limit > 0 && (n > f.forChannels() || n+f.clients > f.limit) {
		return false
	}
	f.channels = n
	return true
}

func (f *files) channelGone() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.channels -= channelFiles
}

// most is how many channels there would be descriptors for; 0 is any number.
func (f *files) most() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.limit == 0 {
		return 0
	}
	return min(f.forChannels(), f.limit-f.clients) / channelFiles
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

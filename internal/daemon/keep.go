package daemon

import (
	"cmp"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/xenchan/xenchan/internal/fdstore"
	"github.com/xenchan/xenchan/internal/sys"
)

// What a channel's descriptors are called where they are kept, after DOMID-DEVID and
// a dot. A socket's name goes on with the numbers of its file, a client's with its own.
const (
	keptSocket   = "listen."
	keptTerminal = "tty"
	keptIn       = "in"
	keptOut      = "out"
	keptClient   = "client."
)

// keep is what of a channel's descriptors outlives the daemon. Where that fails, a
// daemon that is started again does not have them, and its clients see their
// connection end; the channel works all the same.
type keep struct {
	*fdstore.Store
	prefix string
	log    *slog.Logger

	mu    sync.Mutex
	names []string // of what is kept, without the prefix; guarded by mu
}

// newKeep is for a channel, of which an earlier daemon has kept what is named.
func newKeep(s *fdstore.Store, channel string, names []string, log *slog.Logger) *keep {
	return &keep{Store: s, prefix: channel + ".", log: log, names: names}
}

func (k *keep) put(what string, h *sys.Handle) {
	k.mu.Lock()
	if !slices.Contains(k.names, what) {
		k.names = append(k.names, what)
	}
	k.mu.Unlock()
	if err := k.Keep(k.prefix+what, h); err != nil {
		k.log.Warn("this will not outlive the daemon", "what", what, "error", err)
	}
}

// putOne keeps a descriptor that was made for that.
func (k *keep) putOne(what string, h *sys.Handle, err error) {
	switch {
	case err != nil:
		k.log.Warn("this will not outlive the daemon", "what", what, "error", err)
	case h != nil:
		k.put(what, h)
		_ = h.Close()
	}
}

func (k *keep) take(what string) *sys.Handle { return k.Claim(k.prefix + what) }

func (k *keep) drop(what string) {
	k.mu.Lock()
	k.names = slices.DeleteFunc(k.names, func(name string) bool { return name == what })
	k.mu.Unlock()
	if err := k.Forget(k.prefix + what); err != nil {
		k.log.Warn("a descriptor stays with the service manager", "what", what, "error", err)
	}
}

// all is what is kept, the clients in their order.
func (k *keep) all() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.SortedStableFunc(slices.Values(k.names), func(a, b string) int { return cmp.Compare(clientNumber(a), clientNumber(b)) })
}

func (k *keep) dropAll() {
	for _, what := range k.all() {
		k.drop(what)
	}
}

// keptClients are the clients of an earlier daemon that are not served yet, in order.
func (d *device) keptClients() []string {
	return slices.DeleteFunc(d.keep.all(), func(what string) bool { return clientNumber(what) == 0 })
}

// clientNumber is 0 for what is no client.
func clientNumber(what string) int {
	number, ok := strings.CutPrefix(what, keptClient)
	if !ok {
		return 0
	}
	n, _ := strconv.Atoi(number)
	return n
}

// inherited is what earlier daemons have kept, by channel.
func inherited(s *fdstore.Store) map[string][]string {
	all := make(map[string][]string)
	for _, name := range s.Names() {
		channel, what, _ := strings.Cut(name, ".")
		all[channel] = append(all[channel], what)
	}
	return all
}

// sweep lets go of the descriptors of channels that are no more.
func sweep(s *fdstore.Store, keep map[string]bool) error {
	var errs []error
	for _, name := range s.Names() {
		if channel, _, _ := strings.Cut(name, "."); !keep[channel] {
			errs = append(errs, s.Forget(name))
		}
	}
	return errors.Join(errs...)
}

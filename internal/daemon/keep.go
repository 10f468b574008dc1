package daemon

import (
	"cmp"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"

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
}

func (k keep) put(what string, h *sys.Handle) {
	if err := k.Keep(k.prefix+what, h); err != nil {
		k.log.Warn("this will not outlive the daemon", "what", what, "error", err)
	}
}

// putOne keeps a descriptor that was made for that.
func (k keep) putOne(what string, h *sys.Handle, err error) {
	switch {
	case err != nil:
		k.log.Warn("this will not outlive the daemon", "what", what, "error", err)
	case h != nil:
		k.put(what, h)
		_ = h.Close()
	}
}

func (k keep) take(what string) *sys.Handle { return k.Claim(k.prefix + what) }

func (k keep) drop(what string) {
	if err := k.Forget(k.prefix + what); err != nil {
		k.log.Warn("a descriptor stays with the service manager", "what", what, "error", err)
	}
}

// all is what is kept, the clients in their order.
func (k keep) all() []string {
	var all []string
	for _, name := range k.Names() {
		if what, ok := strings.CutPrefix(name, k.prefix); ok {
			all = append(all, what)
		}
	}
	slices.SortStableFunc(all, func(a, b string) int { return cmp.Compare(clientNumber(a), clientNumber(b)) })
	return all
}

func (k keep) dropAll() {
	for _, what := range k.all() {
		k.drop(what)
	}
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

// sweep lets go of the descriptors of channels that are no more.
func sweep(s *fdstore.Store, keep func(channel string) bool) error {
	var errs []error
	for _, name := range s.Names() {
		if channel, _, ok := strings.Cut(name, "."); !ok || !keep(channel) {
			errs = append(errs, s.Forget(name))
		}
	}
	return errors.Join(errs...)
}

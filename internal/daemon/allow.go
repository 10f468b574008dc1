package daemon

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/xenchan/xenchan/endpoint/unixsock"
)

// openToAll is the mode of a socket whose clients are told apart by "allow".
const openToAll = 0o666

// allowed is who may connect to a socket. The names are looked up when the socket
// is made, as those of its owner and group are.
type allowed struct {
	everybody  bool
	uids, gids []uint32
}

// parseAllow reads the list of a [channel.Spec].
func parseAllow(list string) (allowed, error) {
	if list == "" {
		return allowed{everybody: true}, nil
	}
	var a allowed
	for who := range strings.SplitSeq(list, ":") {
		lookup, ids := ownerID, &a.uids
		name, isGroup := strings.CutPrefix(who, "@")
		if isGroup {
			lookup, ids = groupID, &a.gids
		}
		id, err := lookup(name)
		if err != nil {
			return allowed{}, fmt.Errorf("allow=%s: %w", list, err)
		}
		*ids = append(*ids, uint32(*id))
	}
	return a, nil
}

func (a allowed) has(p unixsock.Peer) bool {
	return a.everybody || slices.Contains(a.uids, p.UID) || slices.Contains(a.gids, p.GID) ||
		slices.ContainsFunc(p.Groups, func(g uint32) bool { return slices.Contains(a.gids, g) })
}

// refusalsLogged is the time between two lines about refused clients: who is not
// let in must not be able to fill the log.
const refusalsLogged = time.Second

// admit returns what a socket asks about each client: it says in the log who
// comes, and counts whom it turns away.
func (d *device) admit(a allowed) func(unixsock.Peer) bool {
	if a.everybody {
		return d.welcome
	}
	var logged time.Time // sockets accept one client at a time
	return func(p unixsock.Peer) bool {
		if a.has(p) {
			return d.welcome(p)
		}
		n := d.refused.Add(1)
		if now := time.Now(); now.Sub(logged) >= refusalsLogged {
			logged = now
			d.peerLog(p).Warn("client refused: not in allow", "allow", d.spec.Allow, "refused_so_far", n)
		}
		return false
	}
}

func (d *device) welcome(p unixsock.Peer) bool {
	d.peerLog(p).Info("client connects")
	return true
}

func (d *device) peerLog(p unixsock.Peer) *slog.Logger {
	return d.log.With("uid", p.UID, "gid", p.GID, "pid", p.PID)
}

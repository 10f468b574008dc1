package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/standin"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// standInWithin is how long the consoles of a domain may take.
const standInWithin = 10 * time.Second

// errDestroyed is a domain that libxl has begun to destroy.
var errDestroyed = errors.New("libxl waits for no device model of this domain")

// standIns are the domains whose device models have handed their consoles over, and
// the connections on which those wait for the end of the domain.
type standIns struct {
	mu    sync.Mutex
	taken map[xen.DomID]net.Conn // nil until the device model has its answer; guarded by mu
	late  map[xen.DomID]string   // what those are to hear then; guarded by mu
}

func (s *standIns) has(dom xen.DomID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.taken[dom]
	return ok
}

// put takes a domain, or keeps it with another connection.
func (s *standIns) put(dom xen.DomID, c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken == nil {
		s.taken = make(map[xen.DomID]net.Conn)
	}
	if old := s.taken[dom]; old != nil && c != nil {
		old.Close()
	} else if c == nil {
		c = old
	}
	s.taken[dom] = c
	if last := s.late[dom]; last != "" && c != nil {
		s.endLocked(dom, last)
	}
}

// need tells a device model what it has to become, as soon as it listens.
func (s *standIns) need(dom xen.DomID, last string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[dom] != nil {
		s.endLocked(dom, last)
		return
	}
	if s.late == nil {
		s.late = make(map[xen.DomID]string)
	}
	s.late[dom] = last
}

func (s *standIns) doms() (all []xen.DomID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for dom := range s.taken {
		all = append(all, dom)
	}
	return all
}

// end lets go of a domain, and tells its device model why.
func (s *standIns) end(dom xen.DomID, last string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(dom, last)
}

func (s *standIns) endLocked(dom xen.DomID, last string) {
	if c := s.taken[dom]; c != nil {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // it may be gone before
		_, _ = c.Write([]byte(last))
		_ = c.Close()
	}
	delete(s.taken, dom)
	delete(s.late, dom)
}

// endAll hangs up on all device models, which wait for the next daemon.
func (s *standIns) endAll() {
	for _, dom := range s.doms() {
		s.end(dom, "")
	}
}

// endStandIns ends the device models of domains that are no more: not every toolstack
// hangs up on them.
func (d *Daemon) endStandIns(ctx context.Context) error {
	for _, dom := range d.standIns.doms() {
		lives, err := d.Store.IsIntroduced(ctx, dom)
		if err != nil {
			return fmt.Errorf("ask whether domain %v lives: %w", dom, err)
		}
		if !lives {
			d.standIns.end(dom, standin.Gone+"\n")
		}
	}
	return nil
}

// serveStandIn answers a domain's device model.
func (d *Daemon) serveStandIn(w http.ResponseWriter, r *http.Request) {
	dom, err := xen.ParseDomID(r.PathValue("domid"))
	if err != nil || dom == 0 {
		http.Error(w, "there is no such domain", http.StatusNotFound)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), standInWithin)
	defer cancel()
	answer, ready, err := d.standIn(ctx, dom)
	if err != nil {
		d.Log.Error("consoles cannot be handed over", "domid", dom, "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if !ready {
		fmt.Fprintln(w, answer)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + answer + "\n"))
	d.standIns.put(dom, conn)
	if d.life.Err() != nil { // endAll may not have seen it
		d.standIns.endAll()
	}
}

// standIn serves the stock consoles of a domain, and tells libxl that its device model
// is ready, once clients can connect to them.
func (d *Daemon) standIn(ctx context.Context, dom xen.DomID) (answer string, ready bool, err error) {
	why, err := toolstack.NeedsQEMU(ctx, d.Store, dom)
	if err == nil && why != "" {
		return d.aside(ctx, dom, why)
	}
	if err != nil {
		return "", false, err
	}
	consoles, why, err := d.stockConsoles(ctx, dom)
	if err != nil || why != "" {
		return standin.Alone + " " + why, false, err
	}
	d.standIns.put(dom, nil)
	var lines []string
	for _, devid := range consoles {
		dev := d.device(dom, devid)
		select {
		case <-dev.whenOpen():
		case <-ctx.Done():
			return "", false, fmt.Errorf("console %d: %w", devid, ctx.Err())
		}
		dev.mu.Lock()
		ep, problem := dev.endpoint, dev.problem
		dev.mu.Unlock()
		switch {
		case ep == nil:
			return "", false, fmt.Errorf("console %d: %s", devid, cmp.Or(problem, "it is not served"))
		case dev.spec.Connection == channel.PTY:
			lines = append(lines, fmt.Sprintf("%s %d %s", standin.TTY, devid, ep.Path()))
		}
	}
	if err := d.sayReady(ctx, dom); err != nil {
		return "", false, err
	}
	return strings.Join(append(lines, standin.Ready), "\n"), true, nil
}

// stockConsoles are the devids of a domain's consoles that a QEMU would have served, and
// why the daemon cannot serve them, if it cannot: libxl runs as root and may make a
// socket anywhere.
func (d *Daemon) stockConsoles(ctx context.Context, dom xen.DomID) (devids []int, why string, err error) {
	v := xenstore.NewValues(ctx, d.Store)
	root := fmt.Sprintf("%s/%v", d.root, dom)
	for _, n := range v.List(root) {
		devid, err := strconv.Atoi(n)
		if err != nil || devid < 1 {
			continue
		}
		dir, kind := root+"/"+n, fmt.Sprintf("/local/domain/%v/device/console/%d/type", dom, devid)
		v.Prefetch(kind, dir+"/connection", dir+"/path")
		if v.Get(kind) != toolstack.StockType {
			continue
		}
		devids = append(devids, devid)
		if path := v.Get(dir + "/path"); v.Get(dir+"/connection") == string(channel.Socket) {
			if why := d.mayNotListen(path); why != "" {
				return nil, why, v.Err()
			}
		}
	}
	return devids, "", v.Err()
}

// mayNotListen says why there can be no socket at path.
func (d *Daemon) mayNotListen(path string) string {
	if err := d.checkPlace(path); err != nil {
		return err.Error()
	}
	uid := os.Geteuid()
	if uid == 0 {
		return ""
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err.Error()
	}
	if dir.Sys().(*syscall.Stat_t).Uid != uint32(uid) && dir.Mode().Perm()&0o002 == 0 {
		return fmt.Sprintf("path %s: the daemon, user %d, may not make a socket there", path, uid)
	}
	return ""
}

// sayReady tells everybody that the daemon serves the consoles, and libxl that it may go
// on, unless libxl has removed its nodes: then the domain is being destroyed.
func (d *Daemon) sayReady(ctx context.Context, dom xen.DomID) error {
	home := fmt.Sprintf("%s/device-model/%v", d.self, dom)
	return d.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		v := xenstore.NewValues(ctx, tx)
		if _, ok := v.Lookup(home); !ok {
			return errors.Join(v.Err(), errDestroyed)
		}
		p := tx.Pipeline()
		p.Write(toolstack.StandIn(d.self, dom), toolstack.HandedOver)
		p.Write(home+"/state", "running")
		return p.Wait(ctx)
	})
}

package xensim

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"syscall"

	"github.com/xenchan/xenchan/xen"
)

// State is where a domain is in its life.
//
//	running ──ShutdownDomain, crash──► shutdown
//	   └──────────┬─────────────────────────┘
//	        DestroyDomain
//	              ▼
//	            dying ──nobody maps its pages──► (gone)
type State string

// The states of a domain. A dying domain is a zombie: it is gone from the
// store, and stays only because another domain maps its pages.
const (
	StateRunning  State = "running"
	StateShutdown State = "shutdown"
	StateDying    State = "dying"
)

// CrashAction is what happens to a guest whose last connection ends.
type CrashAction string

// The crash actions, by their names in xl.cfg (on_crash).
const (
	CrashDestroy  CrashAction = "destroy"  // as by [Host.DestroyDomain]; the default
	CrashPreserve CrashAction = "preserve" // as by [Host.ShutdownDomain]
)

// DomainConfig describes a guest to make.
type DomainConfig struct {
	Name    string      // required; no two domains share one
	UUID    string      // made up if empty
	UID     uint32      // who may connect as this domain; 0 means the user that runs the host
	OnCrash CrashAction // destroy if empty
}

// Domain is a guest that was made.
type Domain struct {
	ID   xen.DomID
	Name string
	UUID string
}

// DomainInfo is a domain as the hypervisor sees it now.
type DomainInfo struct {
	Domain
	State       State
	Connections int // open connections of the domain
	Ports       int // its ends of event channels
	Grants      int // its references that are granted or still mapped
	Mapped      int // pages of others that it maps
	ForeignMaps int // its pages that any domain maps, each mapping counted
}

// limits are what a domain may have at once.
type limits struct {
	ports, grants, mapped, sessions int
}

var (
	guestLimits = limits{ports: 1023, grants: 1024, mapped: 1024, sessions: 16}
	dom0Limits  = limits{ports: 16383, grants: 16384, mapped: 16384, sessions: 512}
)

// firstRef is the first grant reference: Linux keeps those below for itself
// (GNTTAB_NR_RESERVED_ENTRIES).
const firstRef = 8

// domain is what the hypervisor knows of one; all but the constants is guarded
// by host.mu.
type domain struct {
	id         xen.DomID
	name, uuid string
	uid        uint32
	onCrash    CrashAction
	limits     limits

	state    State
	sessions map[*session]struct{}
	ports    table[*port]
	grants   table[*grant]
	mapped   int // pages of others that it maps
	foreign  int // mappings of its pages
}

func newDomain(id xen.DomID, cfg DomainConfig, l limits) *domain {
	return &domain{
		id: id, name: cfg.Name, uuid: cfg.UUID, uid: cfg.UID, onCrash: cfg.OnCrash,
		limits: l, state: StateRunning,
		sessions: make(map[*session]struct{}),
		ports:    newTable[*port](1, l.ports),
		grants:   newTable[*grant](firstRef, l.grants),
	}
}

// CreateDomain makes a guest: a domid that was never used before, and the nodes
// that libxl writes for a domain. EEXIST says that the name is taken, ENOSPC
// that there are no domids left.
func (h *Host) CreateDomain(cfg DomainConfig) (*Domain, error) {
	if err := h.complete(&cfg); err != nil {
		return nil, fmt.Errorf("create domain: %w", err)
	}
	h.adminMu.Lock()
	defer h.adminMu.Unlock()
	d, err := h.addDomain(cfg)
	if err != nil {
		return nil, fmt.Errorf("create domain %s: %w", cfg.Name, err)
	}
	ctx := context.Background()
	err = h.nodes.addDomain(ctx, d)
	if err == nil {
		err = h.store.IntroduceDomain(d.id)
	}
	if err != nil {
		_ = h.destroy(ctx, d)
		return nil, fmt.Errorf("create domain %s: %w", cfg.Name, err)
	}
	return &Domain{ID: d.id, Name: d.name, UUID: d.uuid}, nil
}

// complete checks the configuration and fills what is left empty.
func (h *Host) complete(cfg *DomainConfig) error {
	if cfg.Name == "" || len(cfg.Name) > 255 {
		return fmt.Errorf("name %q has not 1 to 255 bytes: %w", cfg.Name, syscall.EINVAL)
	}
	switch cfg.OnCrash {
	case "":
		cfg.OnCrash = CrashDestroy
	case CrashDestroy, CrashPreserve:
	default:
		return fmt.Errorf("on_crash %q is neither destroy nor preserve: %w", cfg.OnCrash, syscall.EINVAL)
	}
	if cfg.UID == 0 {
		cfg.UID = h.uid
	}
	if cfg.UUID == "" {
		cfg.UUID = newUUID()
	}
	if !validUUID(cfg.UUID) {
		return fmt.Errorf("uuid %q is not 8-4-4-4-12 hexadecimal digits: %w", cfg.UUID, syscall.EINVAL)
	}
	return nil
}

func (h *Host) addDomain(cfg DomainConfig) (*domain, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing {
		return nil, syscall.ESHUTDOWN
	}
	for _, d := range h.domains {
		if d.state != StateDying && (d.name == cfg.Name || d.uuid == cfg.UUID) {
			return nil, syscall.EEXIST
		}
	}
	if h.nextID >= xen.FirstReserved {
		return nil, syscall.ENOSPC
	}
	d := newDomain(h.nextID, cfg, guestLimits)
	h.nextID++
	h.domains[d.id] = d
	return d, nil
}

// find returns a guest that is not dying.
func (h *Host) find(id xen.DomID) (*domain, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[id]
	if d == nil || d.state == StateDying {
		return nil, syscall.ESRCH
	}
	if id == 0 {
		return nil, syscall.EINVAL
	}
	return d, nil
}

// DestroyDomain removes a guest as libxl does: the backend and frontend of each
// of its devices, its own nodes, and then the domain itself, whose event
// channels and grants end. It returns when @releaseDomain has been fired. Pages
// that others still map keep the domain as a zombie.
func (h *Host) DestroyDomain(id xen.DomID) error {
	h.adminMu.Lock()
	defer h.adminMu.Unlock()
	d, err := h.find(id)
	if err == nil {
		err = h.destroy(context.Background(), d)
	}
	if err != nil {
		return fmt.Errorf("destroy domain %v: %w", id, err)
	}
	return nil
}

// destroy is DestroyDomain without the search; adminMu is held. The domain goes
// even if its nodes could not be removed.
func (h *Host) destroy(ctx context.Context, d *domain) error {
	err := h.nodes.removeDomain(ctx, d)
	h.mu.Lock()
	d.state = StateDying
	for s := range d.sessions {
		s.release()
	}
	h.reap(d)
	h.mu.Unlock()
	if rerr := h.store.ReleaseDomain(d.id); err == nil {
		err = rerr
	}
	return err
}

// reap forgets a dying domain whose pages nobody maps; mu is held.
func (h *Host) reap(d *domain) {
	if d.state == StateDying && d.foreign == 0 {
		delete(h.domains, d.id)
	}
}

// ShutdownDomain makes a guest stop running, as when it powers off:
// @releaseDomain is fired, and everything of it stays until it is destroyed,
// also what its open connections hold. A domain that is shut down already stays
// as it is.
func (h *Host) ShutdownDomain(id xen.DomID) error {
	h.adminMu.Lock()
	defer h.adminMu.Unlock()
	d, err := h.find(id)
	if err != nil {
		return fmt.Errorf("shut down domain %v: %w", id, err)
	}
	h.mu.Lock()
	was := d.state
	d.state = StateShutdown
	h.mu.Unlock()
	if was == StateRunning {
		h.store.ShutdownDomain(id)
	}
	return nil
}

// Domains lists all domains with domain 0 and the zombies, by domid.
func (h *Host) Domains() []DomainInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []DomainInfo
	for _, d := range h.domains {
		list = append(list, DomainInfo{
			Domain:      Domain{ID: d.id, Name: d.name, UUID: d.uuid},
			State:       d.state,
			Connections: len(d.sessions),
			Ports:       len(d.ports.used),
			Grants:      len(d.grants.used),
			Mapped:      d.mapped,
			ForeignMaps: d.foreign,
		})
	}
	slices.SortFunc(list, func(a, b DomainInfo) int { return int(a.ID) - int(b.ID) })
	return list
}

// newUUID is a random uuid (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// validUUID is strict, as the uuid becomes a path in the store.
func validUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}

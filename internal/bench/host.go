package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xenbus"
	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// mostDomains is how many domains share the channels, evenly: so those that are busy at
// once are in as many domains whatever their number. A domain has more of them than a
// Linux guest could use, and nodes within a guest's quota.
const mostDomains = 100

// place is where a channel is: its domain and its number there.
type place struct{ dom, devid int }

func places(channels int) []place {
	all := make([]place, channels)
	for i := range all {
		all[i] = place{1 + i%mostDomains, 1 + i/mostDomains}
	}
	return all
}

func domains(channels int) int { return min(channels, mostDomains) }

func (p place) socket(dir string) string {
	return filepath.Join(sim.RunDir(dir), fmt.Sprintf("d%d", p.dom), fmt.Sprintf("c%d.sock", p.devid))
}

func (p place) frontend() string {
	return fmt.Sprintf("/local/domain/%d/device/console/%d", p.dom, p.devid)
}

func (p place) backend() string {
	return fmt.Sprintf("/local/domain/0/backend/console/%d/%d", p.dom, p.devid)
}

// playHost is the hypervisor and its xenstore, with the nodes of all channels.
func playHost(ctx context.Context, dir string, channels int) error {
	h, err := xensim.Start(dir, xensim.Config{})
	if err != nil {
		return err
	}
	defer h.Close()
	store, err := xenstore.Open(ctx, h.StorePath())
	if err != nil {
		return err
	}
	defer store.Close()
	for i := range domains(channels) {
		d, err := h.CreateDomain(xensim.DomainConfig{Name: "d" + strconv.Itoa(i+1)})
		if err != nil {
			return err
		}
		if int(d.ID) != i+1 {
			return fmt.Errorf("the domain is number %v, not %d", d.ID, i+1)
		}
	}
	for _, p := range places(channels) {
		if err := makeNodes(ctx, store, p, dir); err != nil {
			return err
		}
	}
	return untilEnd("ready")
}

// untilEnd says something and waits for the end of what this process is told.
func untilEnd(say string) error {
	if _, err := fmt.Println(say); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// makeNodes writes what the toolstack would, which refuses to give one domain so
// many channels.
func makeNodes(ctx context.Context, store *xenstore.Store, p place, dir string) error {
	dom := strconv.Itoa(p.dom)
	owner, reader := uint16(p.dom), uint16(0)
	return store.Tx(ctx, func(tx *xenstore.Tx) error {
		w := tx.Pipeline()
		set := func(dir string, pairs ...string) {
			w.Mkdir(dir)
			w.SetPerms(dir, wire.Perms{{Access: wire.AccessNone, DomID: owner}, {Access: wire.AccessRead, DomID: reader}})
			for i := 0; i < len(pairs); i += 2 {
				w.Write(dir+"/"+pairs[i], pairs[i+1])
			}
		}
		set(p.frontend(), "backend", p.backend(), "backend-id", "0", "state", xenbus.Initialising.Decimal())
		// What follows is not the guest's to change.
		w.Write(p.frontend()+"/type", toolstack.Type)
		w.SetPerms(p.frontend()+"/type", wire.Perms{{Access: wire.AccessNone, DomID: 0}, {Access: wire.AccessRead, DomID: owner}})
		owner, reader = 0, uint16(p.dom)
		set(p.backend(), "frontend", p.frontend(), "frontend-id", dom, "online", "1", "state", xenbus.Initialising.Decimal(),
			"name", fmt.Sprintf("org.example.c%d", p.devid), "connection", "socket", "path", p.socket(dir),
			"overflow", string(channel.Block), // a client that gets no processor for a while would lose bytes, and wait for them
			toolstack.Instance, fmt.Sprintf("bench-%d-%d", p.dom, p.devid))
		return w.Wait(ctx)
	})
}

// playGuests is all guests: each of their channels has an agent.
func playGuests(ctx context.Context, dir string, channels int) error {
	all, ctx := errgroup.WithContext(ctx)
	for i := range domains(channels) {
		n := (channels - i + mostDomains - 1) / mostDomains
		ready := make(chan struct{})
		all.Go(func() error { return guest(ctx, dir, xen.DomID(i+1), n, ready) })
		select {
		case <-ready:
		case <-ctx.Done():
			return all.Wait()
		}
	}
	return untilEnd("ready")
}

// guest is one domain, which follows its backends as hvc_xen does.
func guest(ctx context.Context, dir string, dom xen.DomID, channels int, ready chan<- struct{}) error {
	hv, err := xensim.Connect(ctx, dir, dom)
	if err != nil {
		return err
	}
	// All of it ends with the process: agents still use the rings.
	stream, err := hv.OpenStore(ctx)
	if err != nil {
		return err
	}
	store := xenstore.New(stream)
	for devid := range channels {
		if err := offer(ctx, hv, store, place{int(dom), devid + 1}); err != nil {
			return fmt.Errorf("guest %v: %w", dom, err)
		}
	}
	backends := fmt.Sprintf("/local/domain/0/backend/console/%v", dom)
	watch, err := store.Watch(ctx, backends)
	if err != nil {
		return err
	}
	close(ready)
	for {
		changed, err := watch.Next(ctx)
		if err != nil {
			return err
		}
		for _, path := range changed {
			devid, isState := strings.CutSuffix(strings.TrimPrefix(path, backends+"/"), "/state")
			if !isState {
				continue
			}
			state, err := store.Read(ctx, path)
			if err != nil {
				return err
			}
			if xenbus.ParseState(state) == xenbus.Connected {
				if err := store.Write(ctx, "device/console/"+devid+"/state", state); err != nil {
					return err
				}
			}
		}
	}
}

// offer shares a ring with the backend that is to come.
func offer(ctx context.Context, hv *xensim.Conn, store *xenstore.Store, p place) error {
	pages, err := hv.SharePages(0, 1)
	if err != nil {
		return err
	}
	event, err := hv.AllocUnbound(0)
	if err != nil {
		return err
	}
	ref, port := pages.Refs()[0], event.Port()
	conn, err := console.AttachFrontend(pages, event)
	if err != nil {
		return err
	}
	go func() { _ = agent(conn) }()
	return store.Tx(ctx, func(tx *xenstore.Tx) error {
		w := tx.Pipeline()
		w.Write(p.frontend()+"/ring-ref", ref.String())
		w.Write(p.frontend()+"/port", port.String())
		w.Write(p.frontend()+"/state", xenbus.Initialised.Decimal())
		return w.Wait(ctx)
	})
}

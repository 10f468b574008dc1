package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/internal/standin"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// followLate sees to devices that come when a domain's device model is there, and that
// only QEMU serves.
func (d *Daemon) followLate(ctx context.Context, kind string) error {
	root := d.self + "/backend/" + kind
	w, err := d.Store.Watch(ctx, root)
	if err != nil {
		return fmt.Errorf("watch %s: %w", root, err)
	}
	defer w.Close()
	for {
		paths, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if slices.Contains(paths, root) {
			paths = nil
			for _, dom := range d.standIns.doms() {
				paths = append(paths, fmt.Sprintf("%s/%v", root, dom))
			}
		}
		seen := make(map[xen.DomID]bool)
		for _, p := range paths {
			domid, _, _ := strings.Cut(strings.TrimPrefix(p, root+"/"), "/")
			dom, err := xen.ParseDomID(domid)
			if err != nil || seen[dom] || !d.standIns.has(dom) {
				continue
			}
			seen[dom] = true
			why, err := toolstack.NeedsQEMU(ctx, d.Store, dom)
			if err != nil {
				return err
			}
			if why != "" {
				d.standIns.need(dom, standin.Beside+" "+why+"\n")
			}
		}
	}
}

// keepFromQEMU has the QEMU that a domain is to get keep off the consoles that we serve:
// it looks at those of its own type alone (xen_console.c).
func (d *Daemon) keepFromQEMU(ctx context.Context, dom xen.DomID) error {
	return d.Store.Tx(ctx, func(tx *xenstore.Tx) error {
		v := xenstore.NewValues(ctx, tx)
		p := tx.Pipeline()
		for _, devid := range v.List(fmt.Sprintf("%s/%v", d.root, dom)) {
			kind := fmt.Sprintf("/local/domain/%v/device/console/%s/type", dom, devid)
			if v.Get(kind) == toolstack.StockType && devid != "0" {
				p.Write(kind, toolstack.Type)
			}
		}
		return errors.Join(v.Err(), p.Wait(ctx))
	})
}

// aside is the answer for a domain that needs a real QEMU: the consoles stay with whom they
// are.
func (d *Daemon) aside(ctx context.Context, dom xen.DomID, why string) (answer string, ready bool, err error) {
	v := xenstore.NewValues(ctx, d.Store)
	by := v.Get(toolstack.StandIn(d.self, dom))
	if v.Err() != nil || by != toolstack.HandedOver {
		return standin.QEMU + " " + why, false, v.Err()
	}
	return standin.Beside + " " + why, false, d.keepFromQEMU(ctx, dom)
}

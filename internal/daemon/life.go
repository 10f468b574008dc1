package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/console"
)

// takeTurn does what there is to do for the device, from the moment it is found to the
// end of its nodes.
func (d *device) takeTurn() {
	if d.over {
		return
	}
	if over, err := d.goOn(d.daemon.life); over || err != nil {
		d.over = true
		d.settle()
		d.opened()
		d.daemon.ended(d, err)
	}
}

func (d *device) goOn(ctx context.Context) (over bool, err error) {
	if !d.begun {
		d.begun = true
		serves, err := d.begin(ctx)
		return !serves, err
	}
	d.changed.Store(false)
	gone, err := d.backend.Step(ctx)
	if err == nil && !gone {
		return false, nil
	}
	d.daemon.crew.aside(func() { err = d.end(ctx, err) })
	return true, err
}

// begin finds out what the device is. One that is not to be served ends with its nodes.
func (d *device) begin(ctx context.Context) (serves bool, err error) {
	mine, err := d.identify(ctx)
	if err != nil {
		return false, err
	}
	if mine {
		invalid, err := d.readSpec(ctx)
		if err != nil {
			return false, err
		}
		if invalid == nil && d.daemon.files.channel(d.dom) {
			if err := d.serve(ctx); err != nil {
				d.daemon.files.channelGone(d.dom)
				return false, err
			}
			return true, nil
		}
		if invalid == nil {
			d.daemon.unserved.Add(1)
			defer d.daemon.unserved.Add(-1)
			invalid = fmt.Errorf("there are descriptors for %d channels: raise the limit of open files and restart the daemon", d.daemon.files.most())
		}
		d.log.Error("channel cannot be served", "error", invalid)
	}
	d.settle()
	d.opened()
	d.daemon.crew.aside(func() { err = d.awaitEnd(ctx) })
	return false, err
}

// serve begins to serve the channel: the device in its turns, the clients in other
// goroutines, which end joins.
func (d *device) serve(ctx context.Context) error {
	d.spec = d.spec.WithDefaults()
	d.named.Store(true)
	var err error
	if d.spool, err = d.daemon.spools.open(d.spoolName(), d.spec.Name+" "+d.instance, d.spec, d.log); err != nil {
		return err
	}
	d.spool.Wait(guestWaits)
	d.keep = newKeep(d.daemon.Descriptors, d.spoolName(), d.daemon.inherit(d.spoolName()), d.log)
	if !d.spool.resumed {
		d.keep.dropAll() // of another channel, or of bytes that are lost
	}
	d.pipes = openPipes(d.spool.Log, d.keep.take(keptIn), d.keep.take(keptOut), d.keep)
	d.daemon.files.have(d.pipes.files() + d.spool.files)
	d.out = outlet{tap: tap{d.spool.Log, &d.observers}, pipes: d.pipes, lost: d.lost}
	backend := console.NewBackend(console.Backend{
		Store: d.daemon.Store, Hypervisor: d.daemon.Hypervisor,
		Path: d.dir, Frontend: d.frontend, DomID: d.dom, Instance: d.instance,
		Sink: &d.out, Source: d.spool.Inbox(), Attached: d.attach, Detached: d.detach,
		Wake: func() { d.daemon.crew.call(d) }, Aside: d.daemon.crew.aside, Log: d.log,
		Settled: func() { d.settleBoth(&d.looked) }, Note: channel.GuestNode, Noted: d.noted,
	})
	if err = d.readRules(ctx); err == nil {
		err = backend.Open(ctx)
	}
	if err != nil {
		d.daemon.files.have(-d.pipes.close() - d.spool.files)
		return errors.Join(err, d.spool.close())
	}
	if d.fence.get() != nil {
		d.unkeep(false) // an earlier daemon may have had none
	}
	d.mu.Lock()
	d.backend = backend
	d.mu.Unlock()
	d.daemon.crew.aside(d.openPlace) // which may have to wait for others with the directory
	return nil
}

// end ends what serve began, because of err, or because the nodes are gone.
func (d *device) end(ctx context.Context, err error) error {
	d.backend.Close()
	if errors.Is(err, console.ErrReplaced) {
		d.look() // for the device that follows
		err = nil
	}
	if err == nil {
		d.flush(ctx)
		d.log.Info("channel is gone", "dropped", d.spool.Positions().Dropped)
		d.gone.Store(true)
		d.observers.end()
	}
	d.closePlace()
	d.daemon.renamed.mark(d.dom)
	d.telling.wg.Wait()
	d.tellLosses()
	d.reader.Lock() // for good: what the spool is in goes
	if d.gone.Load() {
		d.keep.dropAll()
	}
	d.mu.Lock()
	d.backend = nil // and status looks no more at the spool
	d.mu.Unlock()
	d.daemon.files.have(-d.pipes.close() - d.spool.files)
	_ = d.spool.close()
	d.daemon.files.channelGone(d.dom)
	if ctx.Err() == nil && err != nil {
		return fmt.Errorf("channel %s of domain %v: %w", d.spec.Name, d.dom, err)
	}
	return err
}

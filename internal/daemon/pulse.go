package daemon

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// defaultPulse is how often a daemon takes its own pulse that nobody watches.
const defaultPulse = 10 * time.Second

// pulse calls Pulse again and again while the daemon makes progress: after every
// loop has come by, every lock could be taken and xenstored has answered. A loop that
// hangs ends the pulse, and then the service manager ends the daemon. So does a
// xenstored that has not answered for as long; a connection to it that is stuck is
// the likelier cause. Where nobody asks for a pulse, the daemon waits, as channels that
// are there need no xenstored.
func (d *Daemon) pulse(ctx context.Context) error {
	every := cmp.Or(d.PulseEvery, defaultPulse)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		begin := time.Now()
		warn := time.AfterFunc(every, func() {
			d.Log.Warn("no progress: xenstored does not answer; channels go on, but none comes or goes", "for", every)
		})
		err := d.roundTrip(ctx)
		if warned := !warn.Stop(); warned && err == nil {
			d.Log.Warn("progress again", "after", time.Since(begin).Round(time.Second))
		}
		if err != nil {
			return err
		}
		if d.Pulse != nil {
			d.Pulse()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// roundTrip returns when xenstored has answered, follow has been through its loop once more,
// and each device that serves has come to rest or to the end of its turn.
func (d *Daemon) roundTrip(ctx context.Context) error {
	if _, err := d.Store.Read(ctx, "domid"); err != nil {
		return fmt.Errorf("ask xenstore which domain this is: %w", err)
	}
	select {
	case d.nudge <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, dev := range d.snapshot() {
		if _, serving := dev.status(); !serving {
			continue
		}
		before, busy := d.crew.at(dev)
		for turns := before; busy && turns == before && d.has(dev); turns, busy = d.crew.at(dev) {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

func (d *Daemon) has(dev *device) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.devices[dev.dir] == dev
}

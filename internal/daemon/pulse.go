package daemon

import (
	"context"
	"time"
)

// pulse calls Pulse again and again while the daemon makes progress: after every
// loop has come by and every lock could be taken. A loop that hangs ends the pulse,
// and then the service manager ends the daemon. So does a xenstored that has not
// answered for as long; a connection to it that is stuck is the likelier cause.
func (d *Daemon) pulse(ctx context.Context) error {
	if d.Pulse == nil {
		return nil
	}
	tick := time.NewTicker(d.PulseEvery)
	defer tick.Stop()
	for {
		if err := d.roundTrip(ctx); err != nil {
			return err
		}
		d.Pulse()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// roundTrip returns when follow and each device that serves has been through its
// loop once more.
func (d *Daemon) roundTrip(ctx context.Context) error {
	select {
	case d.nudge <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	all := d.snapshot()
	for _, dev := range all {
		if _, serving := dev.status(); serving {
			dev.look()
		}
	}
	for _, dev := range all {
		for d.has(dev) && len(dev.poke) > 0 {
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

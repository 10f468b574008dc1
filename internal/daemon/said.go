package daemon

import (
	"context"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/xenstore"
)

// saidPause is the least time between two looks at what the guest says, however
// often it changes that.
const saidPause = 50 * time.Millisecond

// followGuest takes note of what the guest helper says about the channel's
// terminal. Anything but its two words counts as nothing said.
func (d *device) followGuest(ctx context.Context) {
	var last channel.GuestState
	for {
		err := d.daemon.Store.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
			v := xenstore.NewValues(ctx, r)
			now := channel.GuestState(v.Get(d.frontend + "/" + channel.GuestNode))
			if now != channel.GuestOpen && now != channel.GuestClosed {
				now = ""
			}
			changed := now != last
			last = now
			return changed, v.Err()
		})
		if err != nil {
			return // the store or the channel is gone, which run sees too
		}
		d.mu.Lock()
		d.said = last
		d.mu.Unlock()
		select {
		case <-time.After(saidPause):
		case <-ctx.Done():
			return
		}
	}
}

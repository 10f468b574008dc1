package daemon

import "github.com/xenchan/xenchan/channel"

// noted takes note of what the guest helper says about the channel's terminal.
// Anything but its two words counts as nothing said.
func (d *device) noted(word string) {
	said := channel.GuestState(word)
	if said != channel.GuestOpen && said != channel.GuestClosed {
		said = ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said = said
}

package qga

import (
	"context"
	"encoding/base64"
	"time"
)

// CommandInfo is one command that an agent knows.
type CommandInfo struct {
	Name    string `json:"name"`
	Enabled bool   `json:"enabled"`
	// Answers says that the command has an answer when it succeeds.
	Answers bool `json:"success-response"`
}

// Info is what an agent says about itself (guest-info).
type Info struct {
	Version  string        `json:"version"`
	Commands []CommandInfo `json:"supported_commands"`
}

// Ping says that the agent answers.
func (c *Client) Ping(ctx context.Context) error { return c.Call(ctx, "guest-ping", nil, nil) }

// Info asks for the agent's version and commands.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var i Info
	return i, c.Call(ctx, "guest-info", nil, &i)
}

// OS is what a guest says about its system (guest-get-osinfo). What it does not
// say is empty.
type OS struct {
	ID            string `json:"id,omitempty"`
	Name          string `json:"name,omitempty"`
	PrettyName    string `json:"pretty-name,omitempty"`
	Version       string `json:"version,omitempty"`
	VersionID     string `json:"version-id,omitempty"`
	Machine       string `json:"machine,omitempty"`
	KernelRelease string `json:"kernel-release,omitempty"`
	KernelVersion string `json:"kernel-version,omitempty"`
}

// OS asks for the guest's system.
func (c *Client) OS(ctx context.Context) (OS, error) {
	var o OS
	return o, c.Call(ctx, "guest-get-osinfo", nil, &o)
}

// Interface is one network interface of a guest (guest-network-get-interfaces).
type Interface struct {
	Name         string    `json:"name"`
	HardwareAddr string    `json:"hardware-address,omitempty"`
	Addresses    []Address `json:"ip-addresses,omitempty"`
}

// Address is one address of an Interface.
type Address struct {
	Type   string `json:"ip-address-type"` // ipv4 or ipv6
	IP     string `json:"ip-address"`
	Prefix int    `json:"prefix"`
}

// Interfaces asks for the guest's network interfaces.
func (c *Client) Interfaces(ctx context.Context) ([]Interface, error) {
	var all []Interface
	return all, c.Call(ctx, "guest-network-get-interfaces", nil, &all)
}

// Time asks for the guest's clock.
func (c *Client) Time(ctx context.Context) (time.Time, error) {
	var ns int64
	err := c.Call(ctx, "guest-get-time", nil, &ns)
	return time.Unix(0, ns), err
}

// SetTime sets the guest's clocks.
func (c *Client) SetTime(ctx context.Context, t time.Time) error {
	return c.Call(ctx, "guest-set-time", map[string]int64{"time": t.UnixNano()}, nil)
}

// FreezeStatus says whether file systems are "frozen" or "thawed".
func (c *Client) FreezeStatus(ctx context.Context) (string, error) {
	var s string
	return s, c.Call(ctx, "guest-fsfreeze-status", nil, &s)
}

// Freeze freezes the guest's file systems, as for a consistent copy of its disks,
// and returns how many. While they are frozen the agent refuses most commands.
func (c *Client) Freeze(ctx context.Context) (int, error) {
	var n int
	return n, c.Call(ctx, "guest-fsfreeze-freeze", nil, &n)
}

// Thaw ends a freeze and returns how many file systems were frozen.
func (c *Client) Thaw(ctx context.Context) (int, error) {
	var n int
	return n, c.Call(ctx, "guest-fsfreeze-thaw", nil, &n)
}

// SetPassword sets a user's password. With crypted it is a hash as crypt(5) has it.
func (c *Client) SetPassword(ctx context.Context, user, password string, crypted bool) error {
	return c.Call(ctx, "guest-set-user-password", map[string]any{
		"username": user, "password": base64.StdEncoding.EncodeToString([]byte(password)), "crypted": crypted,
	}, nil)
}

// Mode is how a guest ends.
type Mode string

// The modes of guest-shutdown.
const (
	PowerDown Mode = "powerdown"
	Reboot    Mode = "reboot"
	Halt      Mode = "halt"
)

// Shutdown tells the guest to end. That it was told is all that is known when
// Shutdown returns: there is no answer, and the guest needs its time.
func (c *Client) Shutdown(ctx context.Context, m Mode) error {
	return c.Send(ctx, "guest-shutdown", map[string]Mode{"mode": m})
}

// Package channel says what a channel is: a named secondary console of a Xen
// domain with an end on the host. [Spec] is what somebody asks for and how it is
// written in one string, [Info] is what there is. The package is pure: it does no
// I/O and knows nothing of xenstore, so every other package can use its words.
package channel

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// MaxChannels is how many channels one Linux guest can use. The kernel's hvc
// driver makes eight terminals, /dev/hvc0 to /dev/hvc7, and the primary console
// takes the first. Beyond that, hvc_xen knows a console by the last digit of its
// devid alone, so that devid 10 and 11 collide with 0 and 1.
const MaxChannels = 7

// Limits of the fields of a [Spec].
const (
	// DefaultSpool is the size in bytes of a channel's spool when the Spec names none:
	// more than a Linux guest says at its boot. An idle channel uses 16 KiB of it.
	DefaultSpool int64 = 4 << 20
	// MinSpool holds at least one full ring (2 KiB) twice.
	MinSpool int64 = 4 << 10
	// MaxSpool keeps a typing error from filling the disk.
	MaxSpool int64 = 1 << 30
	// MaxNameLen is the longest name in bytes: the name is also a file name in
	// the guest and on the host, and part of a socket's path.
	MaxNameLen = 128
	// MaxPathLen is the longest path of a unix socket in bytes: sun_path has
	// 108, one of them for the final NUL (linux/un.h).
	MaxPathLen = 107
	// MaxSpecLen is the longest string that [ParseSpec] reads, in bytes. Every
	// part of it goes into xenstore, where a message has 4096.
	MaxSpecLen = 4096
)

// Connection says what the host end of a channel is. The words are those of
// xl.cfg and of the node "connection" in xenstore, in lower case.
type Connection string

// The two connections that the stock tools know.
const (
	PTY    Connection = "pty"
	Socket Connection = "socket"
)

// Overflow says what happens to the guest's bytes when the spool is full.
type Overflow string

const (
	// DropOldest discards the oldest bytes of the spool and counts them. It is
	// the default.
	DropOldest Overflow = "drop-oldest"
	// Block stops draining the ring. A Linux guest that goes on writing then
	// spins with interrupts off on the writing vCPU until a client reads.
	Block Overflow = "block"
)

// Spec is a channel that somebody asks for. Two Specs are the same when they are
// ==. The zero value of each field but Name and Connection means "the default".
type Spec struct {
	// Name is how both ends find the channel, as org.example.agent.0. Required.
	Name string
	// Connection is what the host end is. Required.
	Connection Connection
	// Path is the unix socket's path. Empty means [DefaultPath], which stock xl
	// does not know: it refuses a socket without a path.
	Path string
	// Backend is the name or domid of the domain that serves the channel.
	// Empty means domain 0.
	Backend string

	// Mode is the permission bits of the socket; 0 means not set.
	Mode fs.FileMode
	// Owner and Group of the socket, each a name or a number; empty means ours.
	Owner, Group string
	// Allow, unless empty, says who alone may connect to the socket: users and,
	// with an @ before them, groups, each a name or a number, with ':' between,
	// which no account's name contains. Root is not among them unless named.
	Allow string
	// Spool is the size of the spool in bytes; 0 means [DefaultSpool].
	Spool int64
	// Overflow is what a full spool does; empty means [DropOldest].
	Overflow Overflow
}

// WithDefaults is s with Spool and Overflow filled in.
func (s Spec) WithDefaults() Spec {
	if s.Spool == 0 {
		s.Spool = DefaultSpool
	}
	if s.Overflow == "" {
		s.Overflow = DropOldest
	}
	return s
}

// String is the canonical form: xl's keys in the order that xl's manual uses,
// then ours, and only those that are set. [ParseSpec] reads it back to the same
// Spec when s is valid.
func (s Spec) String() string {
	var parts []string
	add := func(key, value string) {
		if value != "" {
			parts = append(parts, key+"="+value)
		}
	}
	add("connection", string(s.Connection))
	add("path", s.Path)
	add("name", s.Name)
	add("backend", s.Backend)
	add("mode", formatMode(s.Mode))
	add("owner", s.Owner)
	add("group", s.Group)
	add("allow", s.Allow)
	add("spool", formatSize(s.Spool))
	add("overflow", string(s.Overflow))
	return strings.Join(parts, ",")
}

func formatMode(m fs.FileMode) string {
	if m == 0 {
		return ""
	}
	return fmt.Sprintf("%04o", uint32(m))
}

func formatSize(n int64) string {
	switch {
	case n == 0:
		return ""
	case n%(1<<20) == 0:
		return strconv.FormatInt(n>>20, 10) + "MiB"
	case n%(1<<10) == 0:
		return strconv.FormatInt(n>>10, 10) + "KiB"
	}
	return strconv.FormatInt(n, 10)
}

// specJSON is the form of a Spec in JSON: every key is always there, the mode is
// octal as in chmod, and an unset value is empty or 0.
type specJSON struct {
	Name       string     `json:"name"`
	Connection Connection `json:"connection"`
	Path       string     `json:"path"`
	Backend    string     `json:"backend"`
	Mode       string     `json:"mode"`
	Owner      string     `json:"owner"`
	Group      string     `json:"group"`
	Allow      string     `json:"allow"`
	Spool      int64      `json:"spool"`
	Overflow   Overflow   `json:"overflow"`
}

// MarshalJSON writes the keys name, connection, path, backend, mode, owner,
// group, allow, spool, overflow, all of them always. Mode is an octal string like
// "0660", spool a number of bytes; what is not set is "" or 0.
func (s Spec) MarshalJSON() ([]byte, error) {
	return json.Marshal(specJSON{
		Name: s.Name, Connection: s.Connection, Path: s.Path, Backend: s.Backend,
		Mode: formatMode(s.Mode), Owner: s.Owner, Group: s.Group, Allow: s.Allow, Spool: s.Spool, Overflow: s.Overflow,
	})
}

// UnmarshalJSON reads what MarshalJSON writes. It does not validate.
func (s *Spec) UnmarshalJSON(b []byte) error {
	var j specJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return fmt.Errorf("channel: %w", err)
	}
	var mode fs.FileMode
	if j.Mode != "" {
		m, bad := parseMode(j.Mode)
		if bad != nil {
			return bad
		}
		mode = m
	}
	*s = Spec{
		Name: j.Name, Connection: j.Connection, Path: j.Path, Backend: j.Backend,
		Mode: mode, Owner: j.Owner, Group: j.Group, Allow: j.Allow, Spool: j.Spool, Overflow: j.Overflow,
	}
	return nil
}

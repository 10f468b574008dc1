// Package firewall decides which user of the host may send which command to a guest
// agent, and stands between a client and the agent to see that it is so.
//
// Drop-in files in TOML say it, strictly: what is not known is an error.
//
//	[[agent]]
//	match = "web*"     # domains: a name, a uuid or a pattern, or a list of them
//	channel = "org.qemu.guest_agent.0"   # the default; or a list of names
//	[[agent.allow]]
//	who = ["alice", "@adm", "1000"]      # users, groups, numbers; "*" is everybody
//	commands = ["guest-ping", "guest-network-*"]
//
// A channel that no file names has no firewall. One that a file names lets through
// what all files together allow for it, and nothing else.
//
// [Session] is the filter of one client, without I/O. It trusts neither side: what
// it lets through is byte for byte what was sent, and is one message for whoever
// reads it, as a parser that starts anew after an error would find others in it.
package firewall

import (
	"fmt"
	"path"
	"slices"

	"github.com/xenchan/xenchan/channel/domcfg"
	"github.com/xenchan/xenchan/internal/sys"
)

// DefaultChannel is the channel of an [[agent]] that names none.
const DefaultChannel = "org.qemu.guest_agent.0"

const (
	// DefaultMaxLine is the longest line in bytes that is let through, either way.
	DefaultMaxLine = 4 << 20
	minMaxLine     = 4 << 10
	maxMaxLine     = 64 << 20
)

// Policy is one [[agent]] of a file.
type Policy struct {
	File     string
	Line     int
	Match    []string
	Channels []string
	MaxLine  int // 0 is the default
	Allow    []Allow
}

// Allow lets some users send some commands.
type Allow struct {
	Line     int
	Who      []Who
	Commands []string // names or patterns
}

// Who is a user, a group, or everybody.
type Who struct {
	Text  string
	Every bool
	Group bool
	ID    uint32
	// Unknown says that the host has no such user or group: it is nobody.
	Unknown bool
}

func (w Who) is(c sys.Cred) bool {
	switch {
	case w.Unknown:
		return false
	case w.Every:
		return true
	case w.Group:
		return c.GID == w.ID || slices.Contains(c.Groups, w.ID)
	}
	return c.UID == w.ID
}

// Set is what a directory of drop-in files says.
type Set struct {
	Policies []*Policy
	// Broken says what is wrong with files, by their names. What they say is not in
	// Policies.
	Broken map[string]domcfg.Errors

	closed  []closed
	sources []source // of all files, to see whether they change
}

// closed are the channels that a broken file names: nobody can tell what it allows.
type closed struct {
	file string
	text string
}

type source struct{ file, text string }

// Same says that two sets were read from the same files.
func (s *Set) Same(o *Set) bool { return slices.Equal(s.sources, o.sources) }

// Empty says that nothing is said about any channel.
func (s *Set) Empty() bool { return len(s.Policies) == 0 && len(s.closed) == 0 }

// Rules are what holds for one channel. They do not change.
type Rules struct {
	policies []*Policy
	closed   string // why nothing is allowed; empty if something may be
	MaxLine  int
}

// For is what holds for a channel of a domain; nil when no file names it. A domain
// whose name is not known is every domain, and may nothing.
func (s *Set) For(name, uuid, channel string) *Rules {
	r := &Rules{MaxLine: DefaultMaxLine}
	for _, p := range s.Policies {
		meant := name == "" || slices.ContainsFunc(p.Match, func(m string) bool { return domcfg.MatchDomain(m, name, uuid) })
		if !meant || !slices.Contains(p.Channels, channel) {
			continue
		}
		r.policies = append(r.policies, p)
		if name == "" {
			r.closed = "the name of the domain cannot be read"
		}
		if p.MaxLine > 0 {
			r.MaxLine = p.MaxLine
		}
	}
	for _, c := range s.closed {
		if channel == DefaultChannel || mentions(c.text, channel) {
			r.closed = c.file + ", which has an error"
		}
	}
	if r.policies == nil && r.closed == "" {
		return nil
	}
	return r
}

// Decide says whether somebody may send a command, and where that is written.
func (r *Rules) Decide(c sys.Cred, command string) (allowed bool, by string) {
	if r.closed != "" {
		return false, r.closed
	}
	for _, p := range r.policies {
		for _, a := range p.Allow {
			named := slices.ContainsFunc(a.Who, func(w Who) bool { return w.is(c) })
			if named && slices.ContainsFunc(a.Commands, func(pattern string) bool { return matches(pattern, command) }) {
				return true, fmt.Sprintf("%s:%d", p.File, a.Line)
			}
		}
	}
	return false, r.Where()
}

// Where is the first place that names the channel.
func (r *Rules) Where() string {
	if r.closed != "" {
		return r.closed
	}
	return fmt.Sprintf("%s:%d", r.policies[0].File, r.policies[0].Line)
}

func matches(pattern, command string) bool {
	ok, err := path.Match(pattern, command)
	return ok && err == nil
}

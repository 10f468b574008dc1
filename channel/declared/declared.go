// Package declared reads drop-in files, which say which domains have which
// channels:
//
//	[[domain]]
//	match = "web-*"    # a name, a uuid or a pattern, or a list of them
//	channels = [
//	  "connection=socket,name=org.example.agent.0",
//	  { name = "org.example.log.0", connection = "pty", spool = "4MiB" },
//	]
//
// The language is TOML, strictly: what is not known is an error. All that is wrong
// with a file is reported at once, each with its place, and one bad file does not
// take away what the others say.
package declared

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
)

// File is a drop-in file.
type File struct {
	// Name is the file's name without its directory.
	Name  string
	Rules []Rule
}

// Rule is one [[domain]] of a file.
type Rule struct {
	Match    []Pattern
	Channels []domcfg.Located
}

// Pattern says which domains a rule is for.
type Pattern struct {
	Text      string
	Line, Col int
}

// matches reports whether a domain is meant. An empty name or uuid is unknown.
func (p Pattern) matches(name, uuid string) bool {
	return domcfg.MatchDomain(p.Text, name, uuid)
}

// literal says that the pattern is a name or a uuid.
func (p Pattern) literal() bool { return !strings.ContainsAny(p.Text, `*?[\`) }

// Set is what a directory of drop-in files says.
type Set struct {
	// Files are those without an error, in the order of their names.
	Files []*File
	// Broken says what is wrong with the others, by their names.
	Broken map[string]domcfg.Errors
}

// ReadDir reads the drop-in files of a directory. A directory that does not exist
// has none. The error is about the directory; those of files are in the Set.
func ReadDir(dir string) (*Set, error) {
	set := &Set{}
	var err error
	set.Broken, err = domcfg.ReadDropIns(dir, func(file string, src []byte) error {
		f, err := Parse(file, src)
		if err == nil {
			set.Files = append(set.Files, f)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return set, nil
}

func problem(file string, line, col int, what, why, fix string) *domcfg.Error {
	return &domcfg.Error{Message: domcfg.Message{File: file, Line: line, Col: col, What: what, Why: why, Fix: fix}}
}

// Wanted is what the files say about one domain.
type Wanted struct {
	// Channels are those that the domain is to have, each name once.
	Channels []domcfg.Located
	// Disputed are the names that the files contradict each other about, and
	// how. Such a channel is neither to be made nor to be taken away.
	Disputed map[string]*domcfg.Error
}

// For is what the files say about a domain. Contradictions cost nobody but those
// who are in them.
func (s *Set) For(name, uuid string) Wanted {
	w := Wanted{Disputed: make(map[string]*domcfg.Error)}
	first := make(map[string]domcfg.Located) // by the channel's name
	paths := make(map[string]domcfg.Located)
	for _, c := range s.matching(name, uuid) {
		switch had, again := first[c.Name]; {
		case again && had.Spec == c.Spec:
			continue
		case again:
			w.dispute(c, had, fmt.Sprintf("channel %s is declared differently for the same domain", c.Name), "keep one of them", c.Name)
			continue
		}
		first[c.Name] = c
		if had, taken := paths[c.Path]; taken && c.Path != "" {
			w.dispute(c, had, fmt.Sprintf("path %s is that of channel %s too", c.Path, had.Name), "give each channel a path of its own", had.Name, c.Name)
		}
		paths[c.Path] = c
		w.Channels = append(w.Channels, c)
	}
	w.Channels = slices.DeleteFunc(w.Channels, func(c domcfg.Located) bool { return w.Disputed[c.Name] != nil })
	if len(w.Channels) > channel.MaxChannels {
		for _, c := range w.Channels[channel.MaxChannels:] {
			w.dispute(c, w.Channels[0], fmt.Sprintf("channel %s is one too many: a domain can have %d", c.Name, channel.MaxChannels), "take one away", c.Name)
		}
		w.Channels = w.Channels[:channel.MaxChannels]
	}
	return w
}

func (w *Wanted) dispute(c, had domcfg.Located, what, fix string, names ...string) {
	err := problem(c.File, c.Line, c.Col, what, fmt.Sprintf("see %s:%d:%d", had.File, had.Line, had.Col), fix)
	for _, name := range names {
		w.Disputed[name] = err
	}
}

// matching are the channels of all rules for a domain.
func (s *Set) matching(name, uuid string) []domcfg.Located {
	var all []domcfg.Located
	for _, f := range s.Files {
		for _, r := range f.Rules {
			if slices.ContainsFunc(r.Match, func(p Pattern) bool { return p.matches(name, uuid) }) {
				all = append(all, r.Channels...)
			}
		}
	}
	return all
}

// Check is all that is wrong with the files, by themselves and together, as far
// as that can be seen without the domains.
func (s *Set) Check() domcfg.Errors {
	var all domcfg.Errors
	for _, errs := range s.Broken {
		all = append(all, errs...)
	}
	for _, f := range s.Files {
		for _, r := range f.Rules {
			for _, p := range r.Match {
				// The domain that it names or, of those that a pattern means, the
				// one that has the pattern for a name.
				for _, err := range s.For(p.Text, p.Text).Disputed {
					all = append(all, err)
				}
			}
		}
	}
	all = append(all, s.sharedPaths()...)
	slices.SortFunc(all, func(a, b *domcfg.Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col), cmp.Compare(a.What, b.What))
	})
	return slices.CompactFunc(all, func(a, b *domcfg.Error) bool { return a.String() == b.String() })
}

// sharedPaths finds sockets that two domains would have. With patterns it takes
// the domains to tell whether two are meant.
func (s *Set) sharedPaths() (errs domcfg.Errors) {
	type claim struct {
		domain Pattern
		at     domcfg.Located
	}
	claims := make(map[string]claim) // the first of each path
	for _, f := range s.Files {
		for _, r := range f.Rules {
			for _, c := range r.Channels {
				for _, p := range r.Match {
					if c.Path == "" || !p.literal() {
						continue
					}
					had, taken := claims[c.Path]
					if !taken {
						claims[c.Path] = claim{p, c}
					} else if !had.domain.matches(p.Text, p.Text) {
						errs = append(errs, problem(c.File, c.Line, c.Col,
							fmt.Sprintf("path %s would be that of domain %s and of domain %s", c.Path, had.domain.Text, p.Text),
							fmt.Sprintf("see %s:%d:%d", had.at.File, had.at.Line, had.at.Col), "leave path out for a place of each domain's own"))
					}
				}
			}
		}
	}
	return errs
}

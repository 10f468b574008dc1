package firewall

import (
	"context"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/xenchan/xenchan/channel/domcfg"
)

// ReadDir reads the drop-in files of a directory. A directory that does not exist
// has none. The error is about the directory; those of files are in the Set.
//
// A file with an error closes the channels that it mentions, and the one that all
// know, [DefaultChannel], in every domain: it was to keep somebody out.
func ReadDir(dir string) (*Set, error) {
	s := &Set{}
	texts := make(map[string]string)
	broken, err := domcfg.ReadDropIns(dir, func(file string, src []byte) error {
		s.sources = append(s.sources, source{file, string(src)})
		texts[file] = string(src)
		policies, err := Parse(file, src)
		s.Policies = append(s.Policies, policies...)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.Broken = broken
	for _, errs := range broken {
		s.closed = append(s.closed, closed{errs[0].File, texts[errs[0].File]})
	}
	slices.SortFunc(s.closed, func(a, b closed) int { return strings.Compare(a.file, b.file) })
	return s, nil
}

// Closed is the set of a directory that cannot be read.
func Closed(dir string) *Set { return &Set{closed: []closed{{file: dir}}} }

// ReportPath is where a daemon's status socket has a [Report]. Posted to, it puts the files
// in force as they are now, unless something is wrong with them.
const ReportPath = "/v1/firewall"

// Report is how the files are, beside what is in force.
type Report struct {
	// Mistakes and Strangers are in the files, with their places.
	Mistakes  []string `json:"mistakes"`
	Strangers []string `json:"strangers"`
	// Pending says that the files are not what is in force.
	Pending bool `json:"pending"`
}

// Report compares a set with the files of a directory as they are now, which it returns
// too; nil if the directory cannot be read.
func (s *Set) Report(dir string) (Report, *Set) {
	now, err := ReadDir(dir)
	if err != nil {
		return Report{Mistakes: []string{err.Error()}, Strangers: []string{}, Pending: true}, nil
	}
	r := Report{Mistakes: []string{}, Strangers: append([]string{}, now.Strangers()...), Pending: !now.Same(s)}
	for _, m := range now.Mistakes() {
		r.Mistakes = append(r.Mistakes, m.String())
	}
	return r, now
}

// mentions says that a text has a channel's name somewhere.
func mentions(text, channel string) bool {
	return strings.Contains(text, channel) || strings.Contains(text, strings.Trim(strconv.Quote(channel), `"`))
}

// Mistakes is all that is wrong with the files, in their order.
func (s *Set) Mistakes() (all domcfg.Errors) {
	for _, c := range s.closed {
		for _, errs := range s.Broken {
			if errs[0].File == c.file {
				all = append(all, errs...)
			}
		}
	}
	return all
}

// Strangers are the users and groups that files name and the host does not know,
// each with its place.
func (s *Set) Strangers() (all []string) {
	for _, p := range s.Policies {
		for _, a := range p.Allow {
			for _, w := range a.Who {
				if w.Unknown {
					all = append(all, fmt.Sprintf("%s:%d: this host has no %q: the line lets in nobody for it", p.File, a.Line, w.Text))
				}
			}
		}
	}
	return all
}

// parseWho reads a user, @GROUP, a number of either, or *. Names are looked up once.
func parseWho(text string) Who {
	w := Who{Text: text, Every: text == "*"}
	if w.Every {
		return w
	}
	name, isGroup := strings.CutPrefix(text, "@")
	w.Group = isGroup
	id := name
	if _, err := strconv.ParseUint(name, 10, 32); err != nil {
		id = lookup(name, isGroup)
	}
	n, err := strconv.ParseUint(id, 10, 32)
	w.ID, w.Unknown = uint32(n), err != nil || n == 1<<32-1 // the last one means "none" to the kernel
	return w
}

// lookup is the number of an account; empty if there is none.
func lookup(name string, isGroup bool) string {
	if isGroup {
		if g, err := user.LookupGroup(name); err == nil {
			return g.Gid
		}
	} else if u, err := user.Lookup(name); err == nil {
		return u.Uid
	}
	return ""
}

// Current is the Set that is in force.
type Current struct {
	mu   sync.Mutex
	set  *Set
	time context.Context // of the set; ends when another takes its place
	end  context.CancelFunc
}

// NewCurrent puts a set in force.
func NewCurrent(s *Set) *Current {
	c := &Current{set: s}
	c.time, c.end = context.WithCancel(context.Background())
	return c
}

// Get is the set in force, and a context that ends when it no longer is.
func (c *Current) Get() (*Set, context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set, c.time
}

// Put puts another set in force.
func (c *Current) Put(s *Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
	c.set = s
	c.time, c.end = context.WithCancel(context.Background())
}

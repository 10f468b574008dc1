package xlcfg

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/channel"
)

// Channels gives the channels that stock xl would make of f, which are those of
// the parameter channel = [ "SPEC", … ], and ours: a socket may be without a path,
// and our further keys are read. Warnings, first those of [Parse], say what xl does
// without a word and what only xl refuses. Errors are [Errors] with the places
// inside the strings; specs is then nil.
func Channels(f *File) (specs []Located, warnings []Warning, err error) {
	c := &collector{file: f, warnings: slices.Clone(f.Warnings)}
	c.misspelled()
	c.parameter()
	c.together()
	slices.SortStableFunc(c.warnings, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	if len(c.errs) > 0 {
		slices.SortStableFunc(c.errs, func(a, b *Error) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
		})
		return nil, c.warnings, c.errs
	}
	return c.specs, c.warnings, nil
}

// collector gathers the channels of one file.
type collector struct {
	file     *File
	specs    []Located
	names    []place // of the name in each of specs
	paths    []place
	warnings []Warning
	errs     Errors
}

// place is a line and a column.
type place struct{ line, col int }

func (c *collector) fail(at place, key, what, why, fix string) {
	switch n := len(c.errs); {
	case n > maxErrors:
		return
	case n == maxErrors:
		what, why, fix = tooMany, "what follows is not reported", ""
	}
	c.errs = append(c.errs, &Error{Message: c.file.message(at.line, at.col, key, what, why, fix)})
}

func (c *collector) warn(at place, key, what, why, fix string) {
	c.add(false, at, key, what, why, fix)
}

func (c *collector) note(at place, key, what, why, fix string) {
	c.add(true, at, key, what, why, fix)
}

func (c *collector) add(note bool, at place, key, what, why, fix string) {
	if len(c.warnings) < maxErrors {
		c.warnings = append(c.warnings, Warning{Message: c.file.message(at.line, at.col, key, what, why, fix), Note: note})
	}
}

// misspelled warns of parameters like channels, which xl ignores without a word.
func (c *collector) misspelled() {
	for _, a := range c.file.Assignments {
		if a.Key != "channel" && channel.Nearest(a.Key, []string{"channel"}) != "" {
			c.warn(place{a.Line, a.Col}, a.Key, fmt.Sprintf("parameter %q is ignored", a.Key), "xl ignores a parameter that it does not know", `did you mean "channel"?`)
		}
	}
}

// parameter reads the items of the list up to the first that is not a string.
func (c *collector) parameter() {
	first := true
	for _, a := range c.file.Assignments {
		if a.Key != "channel" {
			continue
		}
		if !first && !a.Append {
			c.warn(place{a.Line, a.Col}, a.Key, "the channels above are replaced", "the last '=' wins", "put all into one list, or append with +=")
		}
		first = false
	}
	v, ok := c.file.Get("channel")
	if !ok {
		return
	}
	if v.Kind != List {
		c.warn(place{v.Line, v.Col}, "channel", "channel is not a list", "xl ignores a value without brackets", `write channel = [ "…" ]`)
		return
	}
	for i, item := range v.List {
		if item.Kind == List {
			c.warn(place{item.Line, item.Col}, "channel", fmt.Sprintf("item %d of channel is a list", i+1),
				fmt.Sprintf("xl stops reading here and drops this and the %d items after it", len(v.List)-i-1), "remove the inner brackets")
			return
		}
		if len(c.errs) > maxErrors {
			return
		}
		c.item(item)
	}
}

// item reads one string as xl does: what is only odd is a warning.
func (c *collector) item(v Value) {
	start := place{v.Line, v.Col}
	if len(v.Text) > channel.MaxSpecLen {
		c.fail(start, "channel", fmt.Sprintf("channel of %d bytes", len(v.Text)), fmt.Sprintf("at most %d are read", channel.MaxSpecLen), "make it shorter")
		return
	}
	fields := channel.Fields(v.Text)
	if len(fields) == 0 {
		c.fail(start, "channel", "empty channel", "xl crashes on it", "remove it")
		return
	}
	faults := len(c.errs)
	var spec channel.Spec
	seen := map[string]place{}
	for _, f := range fields {
		line, col := v.At(f.Offset)
		c.field(&spec, f, place{line, col}, seen)
	}
	for _, key := range []string{"name", "connection"} {
		if _, ok := seen[key]; ok {
			continue
		}
		if key == "name" {
			c.fail(start, key, "the channel has no name", "nobody could find it, and libxl refuses the domain", "add name=NAME, for example name=org.example.agent.0")
		} else {
			c.fail(start, key, "the channel has no connection", "xl refuses the file", "add connection=socket or connection=pty")
		}
	}
	if len(c.errs) == faults { // a field that failed is not set, which would mislead
		c.advise(spec, start, seen)
	}
	c.names = append(c.names, seen["name"])
	c.paths = append(c.paths, seen["path"])
	if spec.Connection == channel.PTY {
		spec.Path = "" // as xl does
	}
	c.specs = append(c.specs, Located{Spec: spec, File: c.file.Name, Line: v.Line, Col: v.Col})
}

// advise repeats what the specification itself warns of, at the place of its key.
func (c *collector) advise(spec channel.Spec, start place, seen map[string]place) {
	for _, w := range spec.Warnings() {
		at, ok := seen[w.Key]
		if !ok {
			at = start
		}
		c.warn(at, w.Key, w.Msg, "", w.Hint)
	}
}

// field sets one key of spec. seen gets the keys that have a value, good or bad.
func (c *collector) field(spec *channel.Spec, f channel.Field, at place, seen map[string]place) {
	if f.Key == "" || !f.Assigned {
		seen[f.Key] = at
		c.fail(at, f.Key, fmt.Sprintf("%q is not KEY=VALUE", f.Text), "xl refuses the file", "give a value or remove it; a value cannot contain a comma")
		return
	}
	if !slices.Contains(channel.Keys(), f.Key) {
		fix := "valid keys are " + strings.Join(channel.Keys(), ", ")
		if near := channel.Nearest(f.Key, channel.Keys()); near != "" {
			fix = fmt.Sprintf("did you mean %q?", near)
		}
		c.warn(at, f.Key, fmt.Sprintf("unknown key %q", f.Key), "xl ignores it", fix)
		return
	}
	if f.Value == "" {
		c.warn(at, f.Key, fmt.Sprintf("%q has a value of spaces alone", f.Key), "it counts as empty", "give a value or remove the key")
		return
	}
	if _, ok := seen[f.Key]; ok {
		c.warn(at, f.Key, fmt.Sprintf("key %q is given twice", f.Key), "the last one wins", "keep one")
	}
	seen[f.Key] = at
	if strings.Contains(f.Value, "=") {
		c.note(at, f.Key, fmt.Sprintf("the value of %q contains '='", f.Key), "xl of Xen 4.17 cuts the value there", "choose another value if Xen 4.17 must read this")
	}
	if err := spec.Set(f.Key, f.Value); err != nil {
		what, fix := err.Error(), ""
		if bad, ok := errors.AsType[*channel.SpecError](err); ok {
			what, fix = bad.Msg, bad.Hint
		}
		c.fail(at, f.Key, what, "", fix)
	}
}

// together checks the channels of one domain against each other.
func (c *collector) together() {
	names, paths := map[string]place{}, map[string]place{}
	for i, s := range c.specs {
		if s.Name != "" {
			if p, ok := names[s.Name]; ok {
				c.fail(c.names[i], "name", fmt.Sprintf("two channels have the name %q", s.Name),
					fmt.Sprintf("the other one is at %s:%d:%d, and both ends find a channel by its name", c.file.Name, p.line, p.col), "rename one")
			} else {
				names[s.Name] = c.names[i]
			}
		}
		if s.Path != "" {
			if p, ok := paths[s.Path]; ok {
				c.warn(c.paths[i], "path", fmt.Sprintf("two channels have the path %s", s.Path),
					fmt.Sprintf("the other one is at %s:%d:%d, and only one of them can listen there", c.file.Name, p.line, p.col), "change one")
			} else {
				paths[s.Path] = c.paths[i]
			}
		}
	}
	if n := len(c.specs); n > channel.MaxChannels {
		s := c.specs[channel.MaxChannels]
		c.fail(place{s.Line, s.Col}, "channel", fmt.Sprintf("%d channels", n),
			fmt.Sprintf("a Linux guest has terminals for %d: its kernel makes hvc0 to hvc7, and the primary console is hvc0", channel.MaxChannels),
			fmt.Sprintf("remove %d", n-channel.MaxChannels))
	}
	if len(c.specs) > 0 {
		s := c.specs[0]
		c.note(place{s.Line, s.Col}, "channel", "some versions of xl lose the first channel",
			"xl of Xen 4.17, and before 4.18.5, 4.19.2 and 4.20.1, makes no device for it", "let xenchan create the domain, which makes all channels, or put a channel that nobody needs first")
	}
}

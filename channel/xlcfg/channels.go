package xlcfg

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/channel"
)

// Stock gives the channels that stock xl of the version xen makes of f, which are
// those of the parameter channel = [ "SPEC", … ], with ours added: a socket may be
// without a path, and our further keys are read. With the zero Version it is any xl
// from 4.17 on. Errors are what xl refuses; they are [Errors] with the places inside
// the strings, and specs is then nil. Warnings, among them those of [Parse], say where
// xl does something that the file does not show, and what xenchan cannot serve: a
// Spec need not be valid.
func Stock(f *File, xen Version) (specs []Located, warnings []Warning, err error) {
	c := collect(f, xen)
	c.domain()
	for _, e := range c.unserved {
		c.warnings = append(c.warnings, Warning{Message: e.Message})
	}
	slices.SortStableFunc(c.warnings, func(a, b Warning) int { return before(a.Message, b.Message) })
	if len(c.errs) > 0 {
		return nil, c.warnings, c.ordered(c.errs)
	}
	return c.specs, c.warnings, nil
}

// Channels is [Stock] for those who serve the channels: what xenchan cannot serve
// is an error as well, and each Spec is valid. It does not look at the domain.
func Channels(f *File) (specs []Located, warnings []Warning, err error) {
	c := collect(f, Version{})
	slices.SortStableFunc(c.warnings, func(a, b Warning) int { return before(a.Message, b.Message) })
	if errs := append(c.errs, c.unserved...); len(errs) > 0 {
		return nil, c.warnings, c.ordered(errs)
	}
	return c.specs, c.warnings, nil
}

func before(a, b Message) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col)) }

// collector gathers the channels of one file.
type collector struct {
	file     *File
	xen      Version
	specs    []Located
	names    []place // of the name in each of specs
	paths    []place
	warnings []Warning
	unserved Errors // what stock xl takes and xenchan cannot serve
	errs     Errors // what stock xl refuses
}

func collect(f *File, xen Version) *collector {
	c := &collector{file: f, xen: xen, warnings: slices.Clone(f.Warnings)}
	c.misspelled()
	c.parameter()
	c.together()
	return c
}

// place is a line and a column.
type place struct{ line, col int }

// fail is for what xl refuses.
func (c *collector) fail(at place, key, what, why, fix string) {
	if len(c.errs) <= maxErrors {
		c.errs = append(c.errs, &Error{Message: c.file.message(at.line, at.col, key, what, why, fix)})
	}
}

// unserve is for what xl takes and xenchan cannot serve.
func (c *collector) unserve(at place, key, what, why, fix string) {
	if len(c.unserved) <= maxErrors {
		c.unserved = append(c.unserved, &Error{Message: c.file.message(at.line, at.col, key, what, why, fix)})
	}
}

// ordered is errs in the order of the file, and not too many of them.
func (c *collector) ordered(errs Errors) Errors {
	slices.SortStableFunc(errs, func(a, b *Error) int { return before(a.Message, b.Message) })
	if len(errs) > maxErrors {
		next := errs[maxErrors]
		errs = append(errs[:maxErrors], &Error{Message: c.file.message(next.Line, next.Col, "", tooMany, "what follows is not reported", "")})
	}
	return errs
}

// warn is for what xl does without saying so, or says and goes on.
func (c *collector) warn(at place, key, what, why, fix string) {
	if len(c.warnings) < maxErrors {
		c.warnings = append(c.warnings, Warning{Message: c.file.message(at.line, at.col, key, what, why, fix)})
	}
}

// domain judges the parameters name and uuid as xl does.
func (c *collector) domain() {
	if _, err := c.file.DomainName(); err != nil {
		e, _ := errors.AsType[*Error](err)
		if v, ok := c.file.Get("name"); ok && v.Kind != List { // empty
			c.unserved = append(c.unserved, e)
		} else {
			c.errs = append(c.errs, e)
		}
	}
	if _, err := c.file.DomainUUID(); err != nil {
		e, _ := errors.AsType[*Error](err)
		if v, _ := c.file.Get("uuid"); v.Kind == List {
			c.warn(place{e.Line, e.Col}, e.Key, e.What, "xl ignores it and makes up a uuid", e.Fix)
		} else {
			c.errs = append(c.errs, e)
		}
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
				fmt.Sprintf("xl stops reading here: it drops this item and the %d after it", len(v.List)-i-1), "remove the inner brackets")
			return
		}
		if len(c.errs) > maxErrors {
			return
		}
		c.item(item)
	}
}

// item reads one string as xl does.
func (c *collector) item(v Value) {
	start := place{v.Line, v.Col}
	if len(v.Text) > channel.MaxSpecLen {
		c.unserve(start, "channel", fmt.Sprintf("channel of %d bytes", len(v.Text)), fmt.Sprintf("at most %d fit into xenstore", channel.MaxSpecLen), "make it shorter")
	}
	fields := channel.Fields(v.Text)
	if len(fields) == 0 {
		c.fail(start, "channel", "empty channel", "xl crashes on it", "remove it")
		return
	}
	refused, unserved := len(c.errs), len(c.unserved)
	var spec channel.Spec
	seen := map[string]place{}
	for _, f := range fields {
		line, col := v.At(f.Offset)
		c.field(&spec, f, place{line, col}, seen)
	}
	if _, ok := seen["connection"]; !ok {
		c.fail(start, "connection", "the channel has no connection", "xl refuses the file", "add connection=socket or connection=pty")
	}
	if at, ok := seen["name"]; spec.Name == "" && (!ok || len(c.errs) == refused) {
		if !ok {
			at = start
		}
		c.unserve(at, "name", "the channel has no name", "nobody could find it, and libxl refuses the domain", "add name=NAME, for example name=org.example.agent.0")
	}
	if len(c.errs) == refused && len(c.unserved) == unserved { // a field that failed is not set, which would mislead
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
	if f.Text[0] == '=' || !f.Assigned {
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
	if _, ok := seen[f.Key]; ok {
		c.warn(at, f.Key, fmt.Sprintf("key %q is given twice", f.Key), "the last one wins", "keep one")
	}
	seen[f.Key] = at
	if strings.Contains(f.Value, "=") && (c.xen == Version{} || c.xen.cutsValues()) {
		c.warn(at, f.Key, fmt.Sprintf("the value of %q contains '='", f.Key), "xl of Xen 4.17 cuts the value there", "choose another value if Xen 4.17 must read this")
	}
	if f.Value == "" && f.Key != "connection" {
		c.warn(at, f.Key, fmt.Sprintf("%q has a value of spaces alone", f.Key), "it counts as empty", "give a value or remove the key")
	}
	c.set(spec, f, at)
}

// set gives xl's keys the value that xl takes, be it valid for a Spec or not.
func (c *collector) set(spec *channel.Spec, f channel.Field, at place) {
	switch f.Key {
	case "name":
		spec.Name = f.Value
	case "path":
		spec.Path = f.Value
	case "backend":
		spec.Backend = f.Value
	}
	if f.Value == "" && f.Key != "connection" {
		return
	}
	err := spec.Set(f.Key, f.Value)
	if err == nil {
		return
	}
	what, fix := err.Error(), ""
	if bad, ok := errors.AsType[*channel.SpecError](err); ok {
		what, fix = bad.Msg, bad.Hint
	}
	if f.Key == "connection" {
		c.fail(at, f.Key, what, "xl refuses the file", fix)
	} else {
		c.unserve(at, f.Key, what, "", fix)
	}
}

// together checks the channels of one domain against each other.
func (c *collector) together() {
	names, paths := map[string]place{}, map[string]place{}
	for i, s := range c.specs {
		if s.Name != "" {
			if p, ok := names[s.Name]; ok {
				c.unserve(c.names[i], "name", fmt.Sprintf("two channels have the name %q", s.Name),
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
		c.unserve(place{s.Line, s.Col}, "channel", fmt.Sprintf("%d channels", n),
			fmt.Sprintf("a Linux guest has terminals for %d: its kernel makes hvc0 to hvc7, and the primary console is hvc0", channel.MaxChannels),
			fmt.Sprintf("remove %d", n-channel.MaxChannels))
	}
	if len(c.specs) > 0 && (c.xen == Version{} || c.xen.losesFirst()) {
		c.firstLost()
	}
}

// firstLost tells of the first channel. It is no fault of the file, so unless the
// version is known to do it this is but a note.
func (c *collector) firstLost() {
	s := c.specs[0]
	w := Warning{Note: c.xen == Version{}, Message: c.file.message(s.Line, s.Col, "channel", "some versions of xl lose the first channel",
		"xl of Xen 4.17, and before 4.18.5, 4.19.2 and 4.20.1, makes no device for it", "let xenchan create the domain, which makes all channels, or put a channel that nobody needs first")}
	if !w.Note {
		w.What, w.Why = fmt.Sprintf("xl of Xen %v loses the first channel", c.xen), "it makes no device for it"
	}
	c.warnings = append(c.warnings, w)
}

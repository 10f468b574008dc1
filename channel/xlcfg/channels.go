package xlcfg

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
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
	if warnings, err = c.Stock(); err != nil {
		return nil, warnings, err
	}
	return c.specs, warnings, nil
}

// Channels is [Stock] for those who serve the channels: what xenchan cannot serve
// is an error as well, and each Spec is valid. It does not look at the domain.
func Channels(f *File) (specs []Located, warnings []Warning, err error) {
	c := collect(f, Version{})
	if warnings, err = c.Served(); err != nil {
		return nil, warnings, err
	}
	return c.specs, warnings, nil
}

// collector gathers the channels of one file.
type collector struct {
	domcfg.Report
	file  *File
	xen   Version
	specs []Located
}

func collect(f *File, xen Version) *collector {
	c := &collector{file: f, xen: xen, Report: domcfg.Report{Source: f.src, Warnings: slices.Clone(f.Warnings)}}
	c.misspelled()
	c.parameter()
	c.Together(c.specs)
	if len(c.specs) > 0 && (xen == Version{} || xen.losesFirst()) {
		c.firstLost()
	}
	return c
}

// domain judges the parameters name and uuid as xl does.
func (c *collector) domain() {
	if _, err := c.file.DomainName(); err != nil {
		e, _ := errors.AsType[*Error](err)
		if v, ok := c.file.Get("name"); ok && v.Kind != List { // empty
			c.Unserved = append(c.Unserved, e)
		} else {
			c.Refused = append(c.Refused, e)
		}
	}
	if _, err := c.file.DomainUUID(); err != nil {
		e, _ := errors.AsType[*Error](err)
		if v, _ := c.file.Get("uuid"); v.Kind == List {
			c.Warn(domcfg.Place{Line: e.Line, Col: e.Col}, e.Key, e.What, "xl ignores it and makes up a uuid", e.Fix)
		} else {
			c.Refused = append(c.Refused, e)
		}
	}
}

// misspelled warns of parameters like channels, which xl ignores without a word.
func (c *collector) misspelled() {
	for _, a := range c.file.Assignments {
		if a.Key != "channel" && channel.Nearest(a.Key, []string{"channel"}) != "" {
			c.Warn(domcfg.Place{Line: a.Line, Col: a.Col}, a.Key, fmt.Sprintf("parameter %q is ignored", a.Key), "xl ignores a parameter that it does not know", `did you mean "channel"?`)
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
			c.Warn(domcfg.Place{Line: a.Line, Col: a.Col}, a.Key, "the channels above are replaced", "the last '=' wins", "put all into one list, or append with +=")
		}
		first = false
	}
	v, ok := c.file.Get("channel")
	if !ok {
		return
	}
	if v.Kind != List {
		c.Warn(domcfg.Place{Line: v.Line, Col: v.Col}, "channel", "channel is not a list", "xl ignores a value without brackets", `write channel = [ "…" ]`)
		return
	}
	for i, item := range v.List {
		if item.Kind == List {
			c.Warn(domcfg.Place{Line: item.Line, Col: item.Col}, "channel", fmt.Sprintf("item %d of channel is a list", i+1),
				fmt.Sprintf("xl stops reading here: it drops this item and the %d after it", len(v.List)-i-1), "remove the inner brackets")
			return
		}
		if c.Full() {
			return
		}
		c.item(item)
	}
}

// item reads one string as xl does.
func (c *collector) item(v Value) {
	start := domcfg.Place{Line: v.Line, Col: v.Col}
	if len(v.Text) > channel.MaxSpecLen {
		c.Unserve(start, "channel", fmt.Sprintf("channel of %d bytes", len(v.Text)), fmt.Sprintf("at most %d fit into xenstore", channel.MaxSpecLen), "make it shorter")
	}
	fields := channel.Fields(v.Text)
	if len(fields) == 0 {
		c.Fail(start, "channel", "empty channel", "xl crashes on it", "remove it")
		return
	}
	faults, refused := c.Failed(), len(c.Refused)
	var spec channel.Spec
	seen := map[string]domcfg.Place{}
	for _, f := range fields {
		line, col := v.At(f.Offset)
		c.field(&spec, f, domcfg.Place{Line: line, Col: col}, seen)
	}
	if _, ok := seen["connection"]; !ok {
		c.Fail(start, "connection", "the channel has no connection", "xl refuses the file", "add connection=socket or connection=pty")
	}
	if at, ok := seen["name"]; spec.Name == "" && (!ok || len(c.Refused) == refused) {
		if !ok {
			at = start
		}
		c.Unserve(at, "name", "the channel has no name", "nobody could find it, and libxl refuses the domain", "add name=NAME, for example name=org.example.agent.0")
	}
	if bad := spec.Conflict(); bad != nil && c.Failed() == faults {
		c.Unserve(seen[bad.Key], bad.Key, bad.Msg, "", bad.Hint)
	}
	if c.Failed() == faults { // a field that failed is not set, which would mislead
		c.advise(spec, start, seen)
	}
	if spec.Connection == channel.PTY {
		spec.Path = "" // as xl does
	}
	c.specs = append(c.specs, Located{Spec: spec, File: c.file.Name, Line: v.Line, Col: v.Col, NameAt: seen["name"], PathAt: seen["path"]})
}

// advise repeats what the specification itself warns of, at the place of its key.
func (c *collector) advise(spec channel.Spec, start domcfg.Place, seen map[string]domcfg.Place) {
	for _, w := range spec.Warnings() {
		at, ok := seen[w.Key]
		if !ok {
			at = start
		}
		c.Warn(at, w.Key, w.Msg, "", w.Hint)
	}
}

// field sets one key of spec. seen gets the keys that have a value, good or bad.
func (c *collector) field(spec *channel.Spec, f channel.Field, at domcfg.Place, seen map[string]domcfg.Place) {
	if f.Text[0] == '=' || !f.Assigned {
		seen[f.Key] = at
		c.Fail(at, f.Key, fmt.Sprintf("%q is not KEY=VALUE", f.Text), "xl refuses the file", "give a value or remove it; a value cannot contain a comma")
		return
	}
	if !slices.Contains(channel.Keys(), f.Key) {
		fix := "valid keys are " + strings.Join(channel.Keys(), ", ")
		if near := channel.Nearest(f.Key, channel.Keys()); near != "" {
			fix = fmt.Sprintf("did you mean %q?", near)
		}
		c.Warn(at, f.Key, fmt.Sprintf("unknown key %q", f.Key), "xl ignores it", fix)
		return
	}
	if _, ok := seen[f.Key]; ok {
		c.Warn(at, f.Key, fmt.Sprintf("key %q is given twice", f.Key), "the last one wins", "keep one")
	}
	seen[f.Key] = at
	if strings.Contains(f.Value, "=") && (c.xen == Version{} || c.xen.cutsValues()) {
		c.Warn(at, f.Key, fmt.Sprintf("the value of %q contains '='", f.Key), "xl of Xen 4.17 cuts the value there", "choose another value if Xen 4.17 must read this")
	}
	if f.Value == "" && f.Key != "connection" {
		c.Warn(at, f.Key, fmt.Sprintf("%q has a value of spaces alone", f.Key), "it counts as empty", "give a value or remove the key")
	}
	c.set(spec, f, at)
}

// set gives xl's keys the value that xl takes, be it valid for a Spec or not.
func (c *collector) set(spec *channel.Spec, f channel.Field, at domcfg.Place) {
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
		c.Fail(at, f.Key, what, "xl refuses the file", fix)
	} else {
		c.Unserve(at, f.Key, what, "", fix)
	}
}

// firstLost tells of the first channel. It is no fault of the file, so unless the
// version is known to do it this is but a note.
func (c *collector) firstLost() {
	at := domcfg.Place{Line: c.specs[0].Line, Col: c.specs[0].Col}
	const fix = "let xenchan create the domain, which makes all channels, or put a channel that nobody needs first"
	if c.xen == (Version{}) {
		c.Note(at, "channel", "some versions of xl lose the first channel", "xl of Xen 4.17, and before 4.18.5, 4.19.2 and 4.20.1, makes no device for it", fix)
		return
	}
	c.Warn(at, "channel", fmt.Sprintf("xl of Xen %v loses the first channel", c.xen), "it makes no device for it", fix)
}

package declared

import (
	"errors"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
)

// channels reads a list of SPEC strings and of tables of keys.
func (p *parser) channels(v, key *unstable.Node) {
	line, col := p.at(v, key)
	if v.Kind != unstable.Array {
		p.fail(line, col, "channels is no list", "it is "+article(v.Kind), "put [ ] around it")
		return
	}
	for it := v.Children(); it.Next(); {
		item := it.Node()
		line, col := p.at(item, key)
		switch item.Kind {
		case unstable.String:
			p.spec(item, line, col)
		case unstable.InlineTable:
			u := p.newChannel(line, col)
			for it := item.Children(); it.Next(); {
				p.set(u, it.Node())
			}
			p.add(u)
		default:
			p.fail(line, col, "channels has an item that is no channel", "it is "+article(item.Kind),
				`write "connection=socket,name=NAME", or { name = "NAME", connection = "socket" }`)
		}
	}
}

// spec reads xl's string.
func (p *parser) spec(n *unstable.Node, line, col int) {
	text := string(n.Data)
	spec, err := channel.ParseSpec(text)
	if err == nil {
		u := p.newChannel(line, col)
		u.Spec = spec
		p.add(u)
		return
	}
	raw := string(p.Raw(n.Raw))
	plain := raw == `"`+text+`"` || raw == "'"+text+"'"
	for _, e := range specErrors(err) {
		at := col
		if plain && e.Offset >= 0 { // an escape would shift what comes after it
			at += 1 + e.Offset
		}
		p.fail(line, at, e.Msg, "", e.Hint)
	}
}

// specErrors are the errors that one holds.
func specErrors(err error) []*channel.SpecError {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*channel.SpecError
		for _, e := range joined.Unwrap() {
			all = append(all, specErrors(e)...)
		}
		return all
	}
	if one, ok := errors.AsType[*channel.SpecError](err); ok {
		return []*channel.SpecError{one}
	}
	return nil
}

func (p *parser) newChannel(line, col int) *unparsed {
	return &unparsed{Located: domcfg.Located{File: p.path, Line: line, Col: col}}
}

func (p *parser) endChannel() {
	if p.channel != nil {
		p.add(p.channel)
		p.channel = nil
	}
}

// add ends a channel: it is whole, or something is missing.
func (p *parser) add(u *unparsed) {
	if u.failed {
		return
	}
	if err := u.Validate(); err != nil { // about what is missing: the values are good already
		for _, e := range specErrors(err) {
			p.fail(u.Line, u.Col, e.Msg, "", e.Hint)
		}
		return
	}
	p.rule.Channels = append(p.rule.Channels, u.Located)
}

// set sets the field of a channel that a key names.
func (p *parser) set(u *unparsed, n *unstable.Node) {
	keys, first := names(n)
	key, v := strings.Join(keys, "."), n.Value()
	value, why := text(key, v, string(p.Raw(v.Raw)))
	if why != "" {
		line, col := p.at(v, first)
		p.fail(line, col, key+" has no value that can be used", why, "write it in quotes, or leave the key away")
		u.failed = true
		return
	}
	for _, e := range specErrors(u.Set(key, value)) {
		line, col := p.at(v, first)
		if strings.HasPrefix(e.Msg, "unknown key") {
			line, col = p.at(first, first)
		}
		p.fail(line, col, e.Msg, "", e.Hint)
		u.failed = true
	}
}

// text is a value as [channel.Spec.Set] reads it. Numbers may stand without quotes
// where a number is meant; in decimal, a mode hardly is what it says.
func text(key string, v *unstable.Node, raw string) (value, why string) {
	switch {
	case v.Kind == unstable.String && len(v.Data) == 0:
		return "", "it is empty"
	case v.Kind == unstable.String:
		return string(v.Data), ""
	}
	n, err := strconv.ParseInt(raw, 0, 64)
	switch {
	case v.Kind != unstable.Integer || err != nil:
	case key == "mode" && strings.HasPrefix(raw, "0o"):
		return strconv.FormatInt(n, 8), ""
	case key == "mode":
		return "", `it is a decimal number, and chmod's are octal, as "0660"`
	case key == "spool" || key == "owner" || key == "group" || key == "backend":
		return strconv.FormatInt(n, 10), ""
	}
	return "", "it is " + article(v.Kind)
}

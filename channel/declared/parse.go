package declared

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
)

// Parse reads a drop-in file. The error is [domcfg.Errors]: all that is wrong, in
// the order of the file; when it is not TOML at all, the first place where it is not.
func Parse(file string, src []byte) (*File, error) {
	if err := checkTOML(file, src); err != nil {
		return nil, domcfg.Errors{err}
	}
	p := &parser{path: file, file: &File{Name: filepath.Base(file)}, lines: strings.SplitAfter(string(src), "\n")}
	for at, line := 0, 0; line < len(p.lines); line++ {
		p.starts = append(p.starts, at)
		at += len(p.lines[line])
	}
	p.Reset(src)
	for p.NextExpression() {
		p.expression(p.Expression())
	}
	p.endRule()
	if err := p.Error(); err != nil { // cannot be: the decoder has read it
		p.fail(1, 1, "is not TOML", err.Error(), "")
	}
	if len(p.errs) > 0 {
		slices.SortStableFunc(p.errs, func(a, b *domcfg.Error) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
		})
		return nil, p.errs
	}
	return p.file, nil
}

// checkTOML finds what no key of ours can heal, as keys that are given twice.
func checkTOML(file string, src []byte) *domcfg.Error {
	var any map[string]any
	err := toml.Unmarshal(src, &any)
	if err == nil {
		return nil
	}
	line, col := 1, 1
	if decode := (*toml.DecodeError)(nil); errors.As(err, &decode) {
		line, col = decode.Position()
	}
	e := problem(file, line, col, "is not TOML", strings.TrimPrefix(err.Error(), "toml: "), "")
	e.Text = sourceLine(strings.SplitAfter(string(src), "\n"), line)
	return e
}

func sourceLine(lines []string, line int) string {
	if line < 1 || line > len(lines) {
		return ""
	}
	return strings.TrimRight(lines[line-1], "\r\n")
}

// parser walks over the syntax tree, which has places, where a decoded value has none.
type parser struct {
	unstable.Parser
	path   string
	file   *File
	lines  []string
	starts []int // offset of each line
	errs   domcfg.Errors

	rule    *rule     // the [[domain]] that keys belong to
	channel *unparsed // the [[domain.channels]] that keys belong to
}

// rule is a Rule that is being read.
type rule struct {
	Rule
	line, col       int
	match, channels bool // the key was given
}

// unparsed is a channel that is being read from keys.
type unparsed struct {
	domcfg.Located
	failed bool
}

func (p *parser) fail(line, col int, what, why, fix string) {
	e := problem(p.path, line, col, what, why, fix)
	e.Text = sourceLine(p.lines, line)
	p.errs = append(p.errs, e)
}

// at is where a node begins, or, if it has no place, the one that it belongs to.
func (p *parser) at(n, owner *unstable.Node) (line, col int) {
	if n.Raw.Length == 0 {
		n = owner
	}
	offset := int(n.Raw.Offset)
	line, found := slices.BinarySearch(p.starts, offset)
	if found {
		return line + 1, 1
	}
	return line, offset - p.starts[line-1] + 1
}

func (p *parser) expression(n *unstable.Node) {
	keys, first := names(n)
	line, col := p.at(first, first)
	name := strings.Join(keys, ".")
	switch {
	case n.Kind == unstable.ArrayTable && name == "domain":
		p.endRule()
		p.rule = &rule{line: line, col: col}
	case n.Kind == unstable.ArrayTable && name == "domain.channels" && p.rule != nil:
		p.endChannel()
		p.rule.channels = true
		p.channel = p.newChannel(line, col)
	case n.Kind == unstable.KeyValue && p.channel != nil:
		p.set(p.channel, n)
	case n.Kind == unstable.KeyValue && p.rule != nil && name == "match":
		p.rule.match = true
		p.match(n.Value(), first)
	case n.Kind == unstable.KeyValue && p.rule != nil && name == "channels":
		p.rule.channels = true
		p.channels(n.Value(), first)
	case n.Kind == unstable.KeyValue && p.rule != nil:
		p.unknown(line, col, name, "match", "channels")
	case n.Kind == unstable.KeyValue && (name == "match" || name == "channels"):
		p.fail(line, col, fmt.Sprintf("key %q belongs to no domain", name), "", "write [[domain]] in a line before it")
	default:
		p.unknown(line, col, name, "domain", "domain.channels")
	}
}

// names are the parts of a table's or key's name, and the node of the first.
func names(n *unstable.Node) (parts []string, first *unstable.Node) {
	for it := n.Key(); it.Next(); {
		if first == nil {
			first = it.Node()
		}
		parts = append(parts, string(it.Node().Data))
	}
	return parts, first
}

func (p *parser) unknown(line, col int, name string, known ...string) {
	fix := "the keys here are " + strings.Join(known, ", ")
	if known[0] == "domain" {
		fix = "write [[domain]], with match and channels"
	}
	if near := channel.Nearest(name, known); near != "" && near != name {
		fix = fmt.Sprintf("did you mean %s?", near)
	}
	p.fail(line, col, fmt.Sprintf("unknown key %q", name), "", fix)
}

// endRule ends a [[domain]], which must say both things.
func (p *parser) endRule() {
	p.endChannel()
	r := p.rule
	p.rule = nil
	if r == nil {
		return
	}
	if !r.match {
		p.fail(r.line, r.col, "the domain has no match", "nothing says which domains are meant", `add match = "NAME"`)
	}
	if !r.channels {
		p.fail(r.line, r.col, "the domain has no channels", "", `add channels = [ "connection=socket,name=NAME" ]`)
	}
	p.file.Rules = append(p.file.Rules, r.Rule)
}

// match reads a name, a uuid or a pattern, or a list of them.
func (p *parser) match(v, key *unstable.Node) {
	line, col := p.at(v, key)
	switch v.Kind {
	case unstable.String:
		p.pattern(string(v.Data), line, col)
	case unstable.Array:
		empty := true
		for it := v.Children(); it.Next(); empty = false {
			if line, col := p.at(it.Node(), key); it.Node().Kind != unstable.String {
				p.fail(line, col, "match has an item that is no string", "it is "+article(it.Node().Kind), "put it in quotes")
			} else {
				p.pattern(string(it.Node().Data), line, col)
			}
		}
		if empty {
			p.fail(line, col, "match is an empty list", "so no domain is meant", "name a domain")
		}
	default:
		p.fail(line, col, "match is no string", "it is "+article(v.Kind), "put it in quotes")
	}
}

func article(k unstable.Kind) string {
	switch k {
	case unstable.Integer, unstable.Array, unstable.InlineTable:
		return "an " + strings.ToLower(k.String())
	}
	return "a " + strings.ToLower(k.String())
}

func (p *parser) pattern(text string, line, col int) {
	if what, why, fix := domcfg.CheckPattern(text); what != "" {
		p.fail(line, col, what, why, fix)
		return
	}
	p.rule.Match = append(p.rule.Match, Pattern{text, line, col})
}

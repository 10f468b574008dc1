package firewall

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
)

// maxWord bounds the name of a user, a command or a channel, in bytes.
const maxWord = 128

// commandPrefix is how the names of all commands of the guest agent begin.
const commandPrefix = "guest-"

// Parse reads a file. The error is [domcfg.Errors], all that is wrong.
func Parse(file string, src []byte) ([]*Policy, error) {
	p := &parser{Report: domcfg.Report{Source: domcfg.NewSource(file, string(src))}}
	var all map[string]any
	if err := toml.Unmarshal(src, &all); err != nil {
		at := domcfg.Place{Line: 1, Col: 1}
		if decode := (*toml.DecodeError)(nil); errors.As(err, &decode) {
			at.Line, at.Col = decode.Position()
		}
		p.Fail(at, "", "is not TOML", strings.TrimPrefix(err.Error(), "toml: "), "")
		_, err := p.Served()
		return nil, err
	}
	p.places = findPlaces(p.Source, src)
	policies := p.file(all)
	if _, err := p.Served(); err != nil {
		return nil, err
	}
	return policies, nil
}

// parser goes through a decoded file, whose values have no places; their keys have.
type parser struct {
	domcfg.Report
	places map[string]domcfg.Place
}

// fail is about the key at a path, as agent.0.match, or what it is in.
func (p *parser) fail(at, what, why, fix string) { p.Fail(p.place(at), "", what, why, fix) }

func (p *parser) file(all map[string]any) (policies []*Policy) {
	p.keys("", all, "agent")
	for i, t := range p.tables("agent", all["agent"]) {
		policies = append(policies, p.policy(fmt.Sprintf("agent.%d", i), t))
	}
	return policies
}

func (p *parser) policy(at string, t map[string]any) *Policy {
	p.keys(at, t, "match", "channel", "max_line", "allow")
	policy := &Policy{File: p.Name, Line: p.place(at).Line, Channels: []string{DefaultChannel}}
	if t["match"] == nil {
		p.fail(at, "the agent has no match", "nothing says which domains are meant", `add match = "NAME"`)
	} else {
		policy.Match = p.words(at, "match", t["match"])
	}
	for _, m := range policy.Match {
		if what, why, fix := domcfg.CheckPattern(m); what != "" {
			p.fail(at+".match", what, why, fix)
		}
	}
	if t["channel"] != nil {
		policy.Channels = p.words(at, "channel", t["channel"])
	}
	for _, c := range policy.Channels {
		if strings.ContainsAny(c, `*?[\`) {
			p.fail(at+".channel", fmt.Sprintf("channel %q is a pattern", c), "what goes through a channel must be known", "give the names")
		} else if c == "" || len(c) > maxWord {
			p.fail(at+".channel", fmt.Sprintf("channel %q is no name", c), "", "give the name of a channel, as "+DefaultChannel)
		}
	}
	if v, given := t["max_line"]; given {
		n, ok := v.(int64)
		if !ok || n < minMaxLine || n > maxMaxLine {
			p.fail(at+".max_line", fmt.Sprintf("max_line is %v", v), "it is the longest message in bytes", fmt.Sprintf("give a number from %d to %d", minMaxLine, maxMaxLine))
		}
		policy.MaxLine = int(n)
	}
	for i, a := range p.tables(at+".allow", t["allow"]) {
		policy.Allow = append(policy.Allow, p.allow(fmt.Sprintf("%s.allow.%d", at, i), a))
	}
	return policy
}

func (p *parser) allow(at string, t map[string]any) Allow {
	p.keys(at, t, "who", "commands")
	a := Allow{Line: p.place(at).Line}
	for _, key := range []string{"who", "commands"} {
		if t[key] == nil {
			p.fail(at, "allow has no "+key, "", map[string]string{"who": `add who = "USER"`, "commands": `add commands = "` + commandPrefix + `ping"`}[key])
		}
	}
	if t["who"] != nil {
		for _, w := range p.words(at, "who", t["who"]) {
			if strings.TrimPrefix(w, "@") == "" || len(w) > maxWord || strings.ContainsAny(w, " ,:\n") {
				p.fail(at+".who", fmt.Sprintf("who %q is no name", w), "", `give a user, @GROUP, a number, or "*" for all who may connect`)
				continue
			}
			a.Who = append(a.Who, parseWho(w))
		}
	}
	if t["commands"] != nil {
		a.Commands = p.words(at, "commands", t["commands"])
	}
	for _, c := range a.Commands {
		p.command(at+".commands", c)
	}
	return a
}

func (p *parser) command(at, c string) {
	_, err := path.Match(c, "")
	switch {
	case c == "*":
	case err != nil || len(c) > maxWord:
		p.fail(at, fmt.Sprintf("command %q is no pattern", c), "", `"*" stands for any characters`)
	case !strings.HasPrefix(c, commandPrefix):
		fix := fmt.Sprintf("did you mean %q?", commandPrefix+c)
		if strings.HasPrefix(c, "sync") || c == "" {
			fix = "`xenchan agent DOMAIN info` lists them"
		}
		p.fail(at, fmt.Sprintf("unknown command %q", c), "the names of all begin with "+commandPrefix, fix)
	}
}

// place is that of a key, or of what it is in.
func (p *parser) place(at string) domcfg.Place {
	for more := true; more; at, _, more = cutLast(at) {
		if place, ok := p.places[at]; ok {
			return place
		}
	}
	return domcfg.Place{Line: 1, Col: 1}
}

// cutLast parts a path from its last key.
func cutLast(at string) (in, key string, ok bool) {
	i := strings.LastIndexByte(at, '.')
	return at[:max(i, 0)], at[i+1:], i >= 0
}

// keys reports those that are not known.
func (p *parser) keys(at string, t map[string]any, known ...string) {
	for _, k := range slices.Sorted(maps.Keys(t)) {
		if slices.Contains(known, k) {
			continue
		}
		fix := "the keys here are " + strings.Join(known, ", ")
		if at == "" {
			fix = "write [[agent]], with match and [[agent.allow]]"
		}
		if near := channel.Nearest(k, known); near != "" {
			fix = fmt.Sprintf("did you mean %s?", near)
		}
		p.fail(strings.TrimPrefix(at+"."+k, "."), fmt.Sprintf("unknown key %q", k), "", fix)
	}
}

// tables is a list of tables.
func (p *parser) tables(at string, v any) (all []map[string]any) {
	list, ok := v.([]any)
	for _, item := range list {
		t, isTable := item.(map[string]any)
		if ok = ok && isTable; ok {
			all = append(all, t)
		}
	}
	if v != nil && !ok {
		_, name, _ := cutLast(at)
		p.fail(at, name+" is no list of tables", "", "write [["+strings.Join(slices.DeleteFunc(strings.Split(at, "."), isNumber), ".")+"]]")
		return nil
	}
	return all
}

func isNumber(s string) bool { return strings.Trim(s, "0123456789") == "" }

// words is a string or a list of some.
func (p *parser) words(at, key string, v any) (all []string) {
	list, isList := v.([]any)
	if !isList {
		list = []any{v}
	}
	for _, item := range list {
		word, ok := item.(string)
		if !ok {
			p.fail(at+"."+key, fmt.Sprintf("%s has %v, which is no string", key, item), "", "put it in quotes")
			continue
		}
		all = append(all, word)
	}
	if len(list) == 0 {
		p.fail(at+"."+key, key+" is an empty list", "", "name something, or leave it out")
	}
	return all
}

// findPlaces is where the keys of a file stand, by their paths; the items of lists
// of tables have numbers there.
func findPlaces(s *domcfg.Source, src []byte) map[string]domcfg.Place {
	places := make(map[string]domcfg.Place)
	counts := make(map[string]int)
	prefix := ""
	var p unstable.Parser
	p.Reset(src)
	for p.NextExpression() {
		n := p.Expression()
		if n.Kind == unstable.Comment {
			continue
		}
		var parts []string
		var first *unstable.Node
		for it := n.Key(); it.Next(); {
			if first == nil {
				first = it.Node()
			}
			parts = append(parts, string(it.Node().Data))
		}
		at := s.Place(int(first.Raw.Offset))
		if n.Kind == unstable.KeyValue {
			places[strings.TrimPrefix(prefix+"."+strings.Join(parts, "."), ".")] = at
			continue
		}
		prefix = within(parts, counts, n.Kind == unstable.ArrayTable)
		places[prefix] = at
		if list, _, _ := cutLast(prefix); n.Kind == unstable.ArrayTable && places[list].Line == 0 {
			places[list] = at
		}
	}
	return places
}

// within is the path of a table whose header has these parts.
func within(parts []string, counts map[string]int, another bool) string {
	full := ""
	for i, part := range parts {
		full = strings.TrimPrefix(full+"."+part, ".")
		n, isList := counts[full]
		if i == len(parts)-1 && another {
			counts[full] = n + 1
			n, isList = n+1, true
		}
		if isList {
			full = fmt.Sprintf("%s.%d", full, n-1)
		}
	}
	return full
}

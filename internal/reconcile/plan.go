package reconcile

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/declared"
	"github.com/xenchan/xenchan/channel/domcfg"
	"github.com/xenchan/xenchan/toolstack"
)

// domain is what there is of a domain.
type domain struct {
	toolstack.Domain
	channels []toolstack.Channel
	// broken are the names of channels that somebody began to detach.
	broken map[string]bool
	phase  phase
}

// phase says what may be done to a domain.
type phase int

const (
	ready    phase = iota
	inMaking       // the toolstack may still write channels of its own
	foreign        // it is not to have declared channels
)

// anyDeclared says whether a domain has a channel that a file has declared.
func anyDeclared(domains []domain) bool {
	return slices.ContainsFunc(domains, func(d domain) bool {
		return slices.ContainsFunc(d.channels, func(c toolstack.Channel) bool { return c.Origin == channel.OriginDeclared })
	})
}

// step is one row, and what it takes to make it so.
type step struct {
	Row
	dom  toolstack.Domain
	want domcfg.Located
	have toolstack.Channel
	// drop says that what there is goes, whatever comes in its place.
	drop bool
}

// plan compares what the files say with what there is. It says for each channel
// that is declared or was, what is to be done.
func plan(set *declared.Set, domains []domain, runDir string) []step {
	p := planner{set: set, runDir: runDir, paths: make(map[string]holder)}
	for _, d := range domains {
		for _, c := range d.channels {
			if c.Path != "" && c.BackendDomID == 0 {
				p.paths[c.Path] = holder{d.Domain, c.Name}
			}
		}
	}
	// What goes makes room for what comes, whichever domain it is in.
	for _, d := range domains {
		if d.phase == ready {
			p.leaving(d)
		}
	}
	for _, d := range domains {
		if d.phase != foreign {
			p.coming(d)
		}
	}
	return p.steps
}

type planner struct {
	set    *declared.Set
	runDir string
	paths  map[string]holder
	steps  []step
}

// holder is the channel whose socket is at a path.
type holder struct {
	dom  toolstack.Domain
	name string
}

func (p *planner) add(d domain, name string, want domcfg.Located, have toolstack.Channel, action Action, problem string) {
	s := step{dom: d.Domain, want: want, have: have}
	s.Row = Row{DomID: uint16(d.ID), Domain: d.Name, Name: name, File: filepath.Base(want.File), Line: want.Line, Action: action, Problem: problem}
	if want.File == "" {
		s.File = have.DeclaredIn
		s.drop = action == Detached
	} else {
		s.drop = d.phase == ready && d.stale(want, have)
	}
	p.steps = append(p.steps, s)
}

// stale says that a channel was declared, and not like this.
func (d domain) stale(want domcfg.Located, have toolstack.Channel) bool {
	return have.Origin == channel.OriginDeclared && (have.DeclaredAs != want.String() || d.broken[have.Name])
}

// leaving finds channels that were declared and no longer are, or not as they were.
func (p *planner) leaving(d domain) {
	w := p.set.For(d.Name, d.UUID)
	for _, c := range d.channels {
		i := slices.IndexFunc(w.Channels, func(l domcfg.Located) bool { return l.Name == c.Name })
		switch {
		case c.Origin != channel.OriginDeclared || w.Disputed[c.Name] != nil:
		case i >= 0 && d.stale(w.Channels[i], c):
			delete(p.paths, c.Path)
		case i >= 0:
		case p.set.Broken[c.DeclaredIn] != nil:
			p.add(d, c.Name, domcfg.Located{}, c, Kept, "its file has an error, so it stays as it is")
		default:
			p.add(d, c.Name, domcfg.Located{}, c, Detached, "")
			delete(p.paths, c.Path)
		}
	}
}

// coming looks at each channel that is declared.
func (p *planner) coming(d domain) {
	w := p.set.For(d.Name, d.UUID)
	for name, err := range w.Disputed {
		p.add(d, name, domcfg.Located{File: err.File, Line: err.Line}, toolstack.Channel{}, Conflict, err.String())
	}
	for _, want := range w.Channels {
		i := slices.IndexFunc(d.channels, func(c toolstack.Channel) bool { return c.Name == want.Name })
		var have toolstack.Channel
		if i >= 0 {
			have = d.channels[i]
		}
		action, problem := p.judge(d, want, have, i >= 0)
		p.add(d, want.Name, want, have, action, problem)
	}
}

// judge says what is to become of a channel that is declared.
func (p *planner) judge(d domain, want domcfg.Located, have toolstack.Channel, exists bool) (Action, string) {
	switch {
	case d.phase == inMaking:
		return Waiting, "the domain is being made or destroyed"
	case exists && have.Origin != channel.OriginDeclared:
		return Conflict, fmt.Sprintf("the domain has a channel of this name already, made by %s, which is left alone: %s", maker(have.Origin), fixFor(have))
	case exists && !d.stale(want, have):
		return Kept, ""
	}
	path, problem := p.path(d, want)
	if problem != "" {
		return Failed, problem
	}
	if path != "" {
		this := holder{d.Domain, want.Name}
		switch other, taken := p.paths[path]; {
		case taken && other.dom.ID != d.ID && other.dom.Name == d.Name:
			return Waiting, fmt.Sprintf("the domain that it was before still has %s", path)
		case taken && other != this:
			return Conflict, fmt.Sprintf("%s:%d: path %s is that of %s/%s already; give each channel a path of its own", want.File, want.Line, path, other.dom.Name, other.name)
		}
		p.paths[path] = this
	}
	if exists {
		return Replaced, ""
	}
	return Attached, ""
}

func maker(o channel.Origin) string {
	if o == channel.OriginXL {
		return "xl or libvirt"
	}
	return "hand"
}

func fixFor(c toolstack.Channel) string {
	if c.Origin == channel.OriginXL {
		return "take it out of the domain's configuration, or out of the drop-in file"
	}
	return "detach it, or take it out of the drop-in file"
}

// path is where on this domain's disk a channel's socket is to be; empty if nowhere.
func (p *planner) path(d domain, want domcfg.Located) (path, problem string) {
	if want.Connection != channel.Socket || want.Backend != "" && want.Backend != "0" {
		return "", ""
	}
	if want.Path != "" {
		return want.Path, ""
	}
	path, err := channel.DefaultPath(p.runDir, d.Name, want.Name)
	if err != nil {
		return "", err.Error()
	}
	return path, ""
}

// named is what a domain is called when xl has moved it, and whether it is leaving:
// xl calls it NAME--incoming while it arrives, and NAME--migratedaway where it was
// (xl_migrate.c).
func named(name string) (final string, leaving bool) {
	if final, ok := strings.CutSuffix(name, "--incoming"); ok && final != "" {
		return final, false
	}
	final, leaving = strings.CutSuffix(name, "--migratedaway")
	return final, leaving
}

package reconcile

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/declared"
	"github.com/xenchan/xenchan/channel/domcfg"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
)

const planRunDir = "/run/x"

// drawSet is a directory of files, some of them broken.
func drawSet(t *rapid.T) *declared.Set {
	set := &declared.Set{Broken: make(map[string]domcfg.Errors)}
	for i := range rapid.IntRange(0, 3).Draw(t, "files") {
		name := fmt.Sprintf("%d.toml", i)
		if rapid.IntRange(0, 4).Draw(t, "broken") == 0 {
			set.Broken[name] = domcfg.Errors{{Message: domcfg.Message{File: name, Line: 1, Col: 1, What: "is broken"}}}
			continue
		}
		src := ""
		for range rapid.IntRange(0, 4).Draw(t, "rules") {
			src += declare(rapid.SampledFrom([]string{"a", "b", "*", "[ab]"}).Draw(t, "match"), drawSpec(t).String())
		}
		f, err := declared.Parse(filepath.Join("/etc/x", name), []byte(src))
		if err != nil {
			t.Fatal(err)
		}
		set.Files = append(set.Files, f)
	}
	return set
}

func drawSpec(t *rapid.T) channel.Spec {
	s := channel.Spec{Name: rapid.StringMatching("[p-s]").Draw(t, "name"), Connection: channel.PTY}
	if rapid.Bool().Draw(t, "socket") {
		s.Connection = channel.Socket
		s.Path = rapid.SampledFrom([]string{"", "", "/run/1", "/run/2"}).Draw(t, "path")
	}
	return s
}

// drawDomain is a domain with channels of every origin. No two have one path.
func drawDomain(t *rapid.T, id xen.DomID, name string, paths map[string]bool) domain {
	d := domain{Domain: toolstack.Domain{ID: id, Name: name}, broken: make(map[string]bool)}
	d.phase = rapid.SampledFrom([]phase{ready, ready, ready, inMaking, foreign}).Draw(t, "phase")
	for range rapid.IntRange(0, 4).Draw(t, "channels") {
		spec := drawSpec(t)
		origin := rapid.SampledFrom([]channel.Origin{channel.OriginDeclared, channel.OriginDeclared, channel.OriginAttached, channel.OriginXL}).Draw(t, "origin")
		file := rapid.SampledFrom([]string{"0.toml", "1.toml", "gone.toml"}).Draw(t, "file")
		c := madeAs(d, spec, origin, file)
		if slices.ContainsFunc(d.channels, func(o toolstack.Channel) bool { return o.Name == c.Name }) || paths[c.Path] {
			continue
		}
		paths[c.Path] = c.Path != ""
		d.channels = append(d.channels, c)
		d.broken[c.Name] = rapid.IntRange(0, 5).Draw(t, "half detached") == 0
	}
	return d
}

// madeAs is a channel as the toolstack would have made it.
func madeAs(d domain, spec channel.Spec, origin channel.Origin, file string) toolstack.Channel {
	c := toolstack.Channel{Info: channel.Info{DomID: uint16(d.ID), Domain: d.Name, Name: spec.Name, Connection: spec.Connection, Origin: origin}}
	if spec.Connection == channel.Socket {
		if c.Path = spec.Path; c.Path == "" {
			c.Path, _ = channel.DefaultPath(planRunDir, d.Name, spec.Name)
		}
	}
	if origin == channel.OriginDeclared {
		c.DeclaredIn, c.DeclaredAs = file, spec.String()
	}
	return c
}

// rows are the channels of a domain, those that were declared too if they are wanted.
func rows(d domain, declaredToo bool) string {
	all := ""
	for _, c := range d.channels {
		if declaredToo || c.Origin != channel.OriginDeclared {
			all += fmt.Sprintln(c.Name, c.Origin, c.Path, c.DeclaredAs)
		}
	}
	return all
}

// carriedOut is what there is after a plan.
func carriedOut(domains []domain, steps []step) []domain {
	var after []domain
	for _, d := range domains {
		d.channels, d.broken = slices.Clone(d.channels), map[string]bool{}
		for _, s := range steps {
			if s.dom.ID == d.ID && s.drop {
				d.channels = slices.DeleteFunc(d.channels, func(c toolstack.Channel) bool { return c.Name == s.Name })
			}
			if s.dom.ID == d.ID && (s.Action == Attached || s.Action == Replaced) {
				d.channels = append(d.channels, madeAs(d, s.want.Spec, channel.OriginDeclared, s.File))
			}
		}
		after = append(after, d)
	}
	return after
}

// Whatever there is and whatever the files say: a plan takes nothing away that no
// file has declared, makes what is declared and not in dispute, gives no path to
// two, and once carried out leaves nothing more to be done.
func TestPlan_property(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, paths := drawSet(t), make(map[string]bool)
		domains := []domain{drawDomain(t, 1, "a", paths), drawDomain(t, 2, "b", paths), drawDomain(t, 3, "c", paths)}
		steps := plan(set, domains, planRunDir)
		after := carriedOut(domains, steps)
		for i, d := range domains {
			if diff := cmp.Diff(rows(d, false), rows(after[i], false)); diff != "" {
				t.Fatalf("what others have made is touched:\n%s", diff)
			}
			if diff := cmp.Diff(rows(d, true), rows(after[i], true)); diff != "" && d.phase != ready {
				t.Fatalf("domain %v is touched, which is not ready:\n%s", d.ID, diff)
			}
			for _, c := range d.channels {
				left := slices.ContainsFunc(after[i].channels, func(o toolstack.Channel) bool { return o.Name == c.Name })
				if !left && set.Broken[c.DeclaredIn] != nil && !slices.ContainsFunc(set.For(d.Name, "").Channels, func(l domcfg.Located) bool { return l.Name == c.Name }) {
					t.Fatalf("%s goes, though its file is broken", c.Name)
				}
			}
		}
		held := make(map[string]string)
		for _, d := range after {
			for _, c := range d.channels {
				if held[c.Path] != "" {
					t.Fatalf("%s is that of %s and of %s/%s", c.Path, held[c.Path], d.Name, c.Name)
				}
				if c.Path != "" {
					held[c.Path] = d.Name + "/" + c.Name
				}
			}
		}
		for _, s := range plan(set, after, planRunDir) {
			if s.Action == Attached || s.drop {
				t.Fatalf("there is still something to do: %+v", s.Row)
			}
		}
	})
}

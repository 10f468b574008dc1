package declared

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
)

// declare is a file with one rule.
func declare(match string, specs ...string) string {
	return "[[domain]]\nmatch = \"" + match + "\"\nchannels = [ \"" + strings.Join(specs, "\", \"") + "\" ]\n"
}

func read(t *testing.T, files map[string]string) (*Set, string) {
	t.Helper()
	dir := t.TempDir()
	for name, src := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(src), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	set, err := ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return set, dir
}

func TestReadDir(t *testing.T) {
	_, dir := read(t, map[string]string{
		"b.toml": declare("b", "connection=pty,name=b"), "a.toml": declare("a", "connection=pty,name=a"),
		"bad.toml": "bad", ".hidden.toml": "bad", "notes.txt": "bad", "a.toml~": "bad",
		"big.toml": strings.Repeat("#", domcfg.MaxDropIn+1), "crlf.toml": strings.ReplaceAll(declare("c", "connection=pty,name=c"), "\n", "\r\n"),
		"deep.toml": "x = " + strings.Repeat("[", 100000),
	})
	for name, create := range map[string]func(string) error{
		"dir.toml":      func(p string) error { return os.Mkdir(p, 0o700) },
		"fifo.toml":     func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"dangling.toml": func(p string) error { return os.Symlink("/nowhere", p) },
	} {
		if err := create(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	set, err := ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var good []string
	for _, f := range set.Files {
		good = append(good, f.Name)
	}
	if diff := cmp.Diff([]string{"a.toml", "b.toml", "crlf.toml"}, good); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"bad.toml", "big.toml", "deep.toml", "dir.toml", "fifo.toml", "dangling.toml"} {
		if len(set.Broken[name]) == 0 {
			t.Errorf("%s is not broken", name)
		}
	}
	if len(set.Broken) != 6 || len(set.Check()) != 6 {
		t.Errorf("%v", set.Check())
	}
	if set, err := ReadDir(filepath.Join(dir, "none")); err != nil || len(set.Files)+len(set.Broken) != 0 {
		t.Errorf("no directory: %v, %v", set, err)
	}
	if _, err := ReadDir(filepath.Join(dir, "a.toml")); err == nil {
		t.Error("a file is a directory")
	}
}

// The examples are good, and mean what they say they do.
func TestExamples(t *testing.T) {
	set, err := ReadDir("../../examples/channels.d")
	if err != nil || len(set.Files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	if errs := set.Check(); len(errs) > 0 {
		t.Error(errs)
	}
	if got := channelNames(set.For("web-7", "").Channels); got != "org.qemu.guest_agent.0 org.example.log.0" {
		t.Error(got)
	}
	if got := channelNames(set.For("db", "").Channels); got != "org.qemu.guest_agent.0" {
		t.Error(got)
	}
}

func channelNames(all []domcfg.Located) string {
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	return strings.Join(names, " ")
}

func TestSet_For(t *testing.T) {
	set, _ := read(t, map[string]string{
		"1.toml": declare("web-*", "connection=pty,name=every") + declare("web-[12]", "connection=pty,name=some"),
		"2.toml": declare("web-1", "connection=pty,name=one") + declare("6FA459EA-ee8a-3ca4-894e-db77e160355e", "connection=pty,name=uuid"),
		"3.toml": declare("*", "connection=pty,name=every"),
	})
	const id = "6fa459ea-ee8a-3ca4-894e-db77e160355e"
	for _, test := range []struct{ name, uuid, want string }{
		{"web-1", "", "every some one"},
		{"web-2", id, "every some uuid"},
		{"web-3", "x", "every"},
		{"db", "", "every"},
		{"", "", ""},
		{"", id, "uuid"},
	} {
		w := set.For(test.name, test.uuid)
		if got := channelNames(w.Channels); got != test.want || len(w.Disputed) > 0 {
			t.Errorf("%s %s: %q, %v", test.name, test.uuid, got, w.Disputed)
		}
	}
	if errs := set.Check(); len(errs) > 0 {
		t.Errorf("Check: %v", errs)
	}
}

// A contradiction costs those who are in it, and names both places.
func TestSet_contradictions(t *testing.T) {
	var seven []string
	for _, n := range []string{"1", "2", "3", "4", "5", "6", "7"} {
		seven = append(seven, "connection=pty,name="+n)
	}
	set, dir := read(t, map[string]string{
		"a.toml": declare("web-1", "connection=pty,name=x") + declare("web-1", "connection=pty,name=fine"),
		"b.toml": declare("web-*", "connection=socket,name=x"),
		"c.toml": declare("full", seven...),
		"d.toml": declare("full", "connection=pty,name=8"),
		"e.toml": declare("p", "connection=socket,name=p,path=/run/p", "connection=socket,name=q,path=/run/p"),
		"f.toml": declare("q", "connection=socket,name=p,path=/run/q"),
		"g.toml": declare("r", "connection=socket,name=p,path=/run/q"),
	})
	for domain, want := range map[string]string{"web-1": "fine", "web-2": "x", "full": "1 2 3 4 5 6 7", "p": "", "q": "p", "r": "p"} {
		if got := channelNames(set.For(domain, "").Channels); got != want {
			t.Errorf("%s: %q, want %q", domain, got, want)
		}
	}
	if w := set.For("full", ""); len(w.Disputed) != 1 || w.Disputed["8"] == nil {
		t.Errorf("%v", w.Disputed)
	}
	want := []string{
		dir + "/b.toml:3:14: channel x is declared differently for the same domain: see " + dir + "/a.toml:3:14; keep one of them",
		dir + "/d.toml:3:14: channel 8 is one too many: a domain can have 7: see " + dir + "/c.toml:3:14; take one away",
		dir + "/e.toml:3:54: path /run/p is that of channel p too: see " + dir + "/e.toml:3:14; give each channel a path of its own",
		dir + "/g.toml:3:14: path /run/q would be that of domain q and of domain r: see " + dir + "/f.toml:3:14; leave path out for a place of each domain's own",
	}
	if diff := cmp.Diff(want, strings.Split(set.Check().Error(), "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Whatever the files say, a domain's channels are valid, no name and no path is
// there twice, they are at most seven, and nothing is both wanted and disputed.
func TestSet_For_property(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := &Set{}
		for range rapid.IntRange(0, 4).Draw(t, "files") {
			src := ""
			for range rapid.IntRange(0, 6).Draw(t, "rules") {
				spec := rapid.SampledFrom([]string{"connection=pty", "connection=socket", "connection=socket,path=/run/a", "connection=socket,path=/run/b"}).Draw(t, "spec")
				src += declare(rapid.SampledFrom([]string{"a", "a*", "*", "[ab]", "b"}).Draw(t, "match"), spec+",name="+rapid.StringMatching("[a-i]").Draw(t, "name"))
			}
			f, err := Parse("x.toml", []byte(src))
			if err != nil {
				t.Fatal(err)
			}
			set.Files = append(set.Files, f)
		}
		for _, domain := range []string{"a", "b", "ab"} {
			w := set.For(domain, "")
			seen := make(map[string]bool)
			for _, c := range w.Channels {
				if c.Validate() != nil || seen[c.Name] || c.Path != "" && seen[c.Path] || w.Disputed[c.Name] != nil {
					t.Fatalf("%s: %v, %v", domain, w.Channels, w.Disputed)
				}
				seen[c.Name], seen[c.Path] = true, true
			}
			if len(w.Channels) > channel.MaxChannels {
				t.Fatalf("%d channels", len(w.Channels))
			}
		}
		for _, err := range set.Check() {
			if err.Line < 1 || err.Col < 1 {
				t.Fatalf("no place: %v", err)
			}
		}
	})
}

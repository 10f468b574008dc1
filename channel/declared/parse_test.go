package declared

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/channel/domcfg"
)

func parse(t *testing.T, src string) *File {
	t.Helper()
	f, err := Parse("/etc/x/a.toml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestParse(t *testing.T) {
	f := parse(t, `# a comment
[[domain]]
match = "web-*"
channels = [
  "connection=socket,name=a,path=/run/a.sock",
  { name = "b", connection = "pty", spool = 8192, overflow = "block", owner = 0 },
]

[[domain]]
match = [ "db", "6fa459ea-ee8a-3ca4-894e-db77e160355e" ]
[[domain.channels]]
name = "c"
connection = "socket"
mode = 0o660
group = "adm"
[[domain.channels]]
name = 'd'
connection = """socket"""
mode = "0600"
`)
	if f.Name != "a.toml" || len(f.Rules) != 2 {
		t.Fatalf("%+v", f)
	}
	if diff := cmp.Diff([]Pattern{{"db", 10, 11}, {"6fa459ea-ee8a-3ca4-894e-db77e160355e", 10, 17}}, f.Rules[1].Match); diff != "" {
		t.Error(diff)
	}
	var got []string
	for _, r := range f.Rules {
		for _, c := range r.Channels {
			got = append(got, c.String())
			if c.File != "/etc/x/a.toml" {
				t.Errorf("%+v", c)
			}
		}
	}
	want := []string{
		"connection=socket,path=/run/a.sock,name=a",
		"connection=pty,name=b,owner=0,spool=8KiB,overflow=block",
		"connection=socket,name=c,mode=0660,group=adm",
		"connection=socket,name=d,mode=0600",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if c := f.Rules[0].Channels[1]; c.Line != 6 || c.Col != 3 {
		t.Errorf("the second channel is at %d:%d", c.Line, c.Col)
	}
	if len(parse(t, "").Rules) != 0 || len(parse(t, "# nothing\n").Rules) != 0 {
		t.Error("an empty file has rules")
	}
}

// Everything wrong with a file is said at once, in order, with place and fix.
func TestParse_errors(t *testing.T) {
	for _, test := range []struct {
		src  string
		want []string
	}{
		{"[[domain]\n", []string{`is not TOML: `}},
		{"[[domain]]\nmatch = \"a\"\nmatch = \"b\"\n", []string{"3:1: is not TOML: "}},
		{"a\x00b", []string{"1:2: is not TOML: "}},
		{"[[domian]]\nmatch = \"x\"", []string{`1:3: unknown key "domian"; did you mean domain?`, `2:1: key "match" belongs to no domain; write [[domain]] in a line before it`}},
		{"[domain]\n", []string{`1:2: unknown key "domain"; write [[domain]], with match and channels`}},
		{"x = 1\n", []string{`1:1: unknown key "x"; write [[domain]], with match and channels`}},
		{"[[domain]]\n", []string{
			`1:3: the domain has no match: nothing says which domains are meant; add match = "NAME"`,
			`1:3: the domain has no channels; add channels = [ "connection=socket,name=NAME" ]`,
		}},
		{"[[domain]]\nmtach = 1\nmatch = 5\nchannels = \"x\"\n", []string{
			`2:1: unknown key "mtach"; did you mean match?`,
			`3:9: match is no string: it is an integer; put it in quotes`,
			`4:12: channels is no list: it is a string; put [ ] around it`,
		}},
		{"[[domain]]\nmatch = [1, '', 'a[']\nchannels = [ 5, {} ]\n", []string{
			"2:10: match has an item that is no string: it is an integer; put it in quotes",
			`2:13: match is empty: no domain has an empty name; name a domain, or give "*" for all`,
			`2:17: match "a[" is no pattern: a [ has no ], or a \ nothing after it; write '\[' for the character itself`,
			"3:14: channels has an item that is no channel: it is an integer; write ",
			"3:17: the channel has no name; add name=NAME",
			"3:17: the channel has no connection; add connection=socket or connection=pty",
		}},
		{"[[domain]]\nmatch = []\nchannels = [ \"connection=sokcet,nmae=x\" ]\n", []string{
			"2:1: match is an empty list: so no domain is meant; name a domain",
			`3:14: the channel has no name; add name=NAME`,
			`3:15: unknown connection "sokcet"; did you mean connection=socket?`,
			`3:33: unknown key "nmae"; did you mean "name"?`,
		}},
		{"[[domain]]\nmatch = \"a\"\n[[domain.channels]]\nname = \"a/b\"\nconnection = \"tty\"\nmode = 660\npath = \"\"\nx = true\nspool = 1.5\n", []string{
			`4:8: name "a/b" contains '/'`,
			`5:14: unknown connection "tty"`,
			`6:8: mode has no value that can be used: it is a decimal number`,
			`7:8: path has no value that can be used: it is empty`,
			`8:5: x has no value that can be used: it is a bool`,
			`9:9: spool has no value that can be used: it is a float`,
		}},
		{"[[domain]]\nmatch = \"a\"\nchannels = [ { name = \"x\", connection = \"pty\", colour = \"red\" } ]\n", []string{
			`3:48: unknown key "colour"; valid keys are name, `,
		}},
	} {
		f, err := Parse("/d/x.toml", []byte(test.src))
		if err == nil || f != nil {
			t.Errorf("%q: %+v, no error", test.src, f)
			continue
		}
		got := strings.Split(err.Error(), "\n")
		if len(got) != len(test.want) {
			t.Errorf("%q:\n%s", test.src, err)
			continue
		}
		for i, want := range test.want {
			if !strings.HasPrefix(got[i], "/d/x.toml:") || !strings.Contains(got[i], want) {
				t.Errorf("%q: message %d is\n%s\nand not\n%s", test.src, i, got[i], want)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", declare("a", "connection=pty,name=a"),
		"[[domain]]\nmatch=['a','*']\n[[domain.channels]]\nname='x'\nconnection='pty'\nmode=0o600\n",
		"[[domain]]\nchannels=[{name='x',spool=1_000}]\n", "domain.match.x = 1", "[[domain]]\nmatch=\"a\\u0041\"\nchannels=[\"na\\u006De=x,x\"]",
		"[[domain]]\nmatch=[[]]\nchannels=[[{}],{name.x=[1]},{name=''}]\n[domain.channels]\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		file, err := Parse("f.toml", src)
		if (file == nil) != (err != nil) {
			t.Fatalf("%v, %v", file, err)
		}
		if err != nil {
			var bad domcfg.Errors
			if !errors.As(err, &bad) || len(bad) == 0 {
				t.Fatalf("%T", err)
			}
			for _, e := range bad {
				if e.File != "f.toml" || e.Line < 1 || e.Line > strings.Count(string(src), "\n")+1 || e.Col < 1 || e.What == "" {
					t.Fatalf("%+v", e)
				}
				e.Snippet()
			}
			return
		}
		set := &Set{Files: []*File{file}}
		set.Check()
		for _, r := range file.Rules {
			if len(r.Match) == 0 {
				t.Fatal("a rule for nobody")
			}
			for _, c := range r.Channels {
				if err := c.Validate(); err != nil {
					t.Fatal(err)
				}
			}
			set.For(r.Match[0].Text, "")
		}
	})
}

package firewall

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/internal/sys"
)

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func readDir(t *testing.T, dir string) *Set {
	t.Helper()
	s, err := ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Each mistake is told, at its place and with what to do.
func TestParse_mistakes(t *testing.T) {
	for src, want := range map[string]string{
		"x": "f:1:1: is not TOML: *",
		"[[agent]]\nmatch = \"a\"\nmatch = \"b\"":                    "f:3:1: is not TOML: *",
		"[[agnet]]\nmatch = 'a'":                                     `f:1:3: unknown key "agnet"; did you mean agent?`,
		"[agent]\nmatch = 'a'":                                       "f:1:2: agent is no list of tables; write [[agent]]",
		"agent = [1]":                                                "f:1:1: agent is no list of tables; write [[agent]]",
		"\n[[agent]]":                                                `f:2:3: the agent has no match: nothing says which domains are meant; add match = "NAME"`,
		"[[agent]]\n mach = 'a'\nmatch='a'":                          `f:2:2: unknown key "mach"; did you mean match?`,
		"[[agent]]\nmatch = []":                                      "f:2:1: match is an empty list; name something, or leave it out",
		"[[agent]]\nmatch = ['a', 1]":                                "f:2:1: match has 1, which is no string; put it in quotes",
		"[[agent]]\nmatch = '['":                                     `f:2:1: match "[" is no pattern: a [ has no ], or a \ nothing after it; write '\[' for the character itself`,
		"[[agent]]\nmatch = ''":                                      `f:2:1: match is empty: no domain has an empty name; name a domain, or give "*" for all`,
		"[[agent]]\nmatch='a'\nchannel = 'org.*'":                    `f:3:1: channel "org.*" is a pattern: what goes through a channel must be known; give the names`,
		"[[agent]]\nmatch='a'\nchannel = ''":                         `f:3:1: channel "" is no name; give the name of a channel, as org.qemu.guest_agent.0`,
		"[[agent]]\nmatch='a'\nmax_line = 1":                         "f:3:1: max_line is 1: it is the longest message in bytes; give a number from 4096 to 67108864",
		"[[agent]]\nmatch='a'\nmax_line = '4MiB'":                    "f:3:1: max_line is 4MiB: it is the longest message in bytes; give a number from 4096 to 67108864",
		"[[agent]]\nmatch='a'\n[agent.allow]\nwho='a'\ncommands='*'": "f:3:2: allow is no list of tables; write [[agent.allow]]",
		"[[agent]]\nmatch='a'\n[[agent.allow]]":                      `f:3:3: allow has no who; add who = "USER"` + "\n" + `f:3:3: allow has no commands; add commands = "guest-ping"`,
		"[[agent]]\nmatch='a'\n[[agent.allow]]\nwho='*'\ncommands='*'\nusers='a'": `f:6:1: unknown key "users"; the keys here are who, commands`,
		"[[agent]]\nmatch='a'\n[[agent.allow]]\nwho='@'\ncommands='*'":            `f:4:1: who "@" is no name; give a user, @GROUP, a number, or "*" for all who may connect`,
		"[[agent]]\nmatch='a'\n[[agent.allow]]\nwho=0\ncommands='*'":              "f:4:1: who has 0, which is no string; put it in quotes",
		"[[agent]]\nmatch='a'\n[[agent.allow]]\nwho='a:b'\ncommands='*'":          `f:4:1: who "a:b" is no name; give a user, @GROUP, a number, or "*" for all who may connect`,
		"[[agent]]\nmatch='a'\n[[agent.allow]]\nwho='*'\ncommands='ping'":         `f:5:1: unknown command "ping": the names of all begin with guest-; did you mean "guest-ping"?`,
		"[[agent]]\nmatch='a'\n[[agent.allow]]\nwho='*'\ncommands='guest-[a'":     `f:5:1: command "guest-[a" is no pattern; "*" stands for any characters`,
		"[[agent]]\nmatch='a'\nallow=[{who='*',command='*'}]":                     `f:3:1: unknown key "command"; did you mean commands?` + "\n" + `f:3:1: allow has no commands; add commands = "guest-ping"`,
		"[[agent]]\n[[agent.allow]]\nwho='*'\ncommands='ping'\n[[agent]]\nmatch='a'\n[[agent.allow]]\nwho='*'\ncommands='*'\n[[agent.allow]]\ncommands='*'": `f:1:3: the agent has no match: nothing says which domains are meant; add match = "NAME"
f:4:1: unknown command "ping": the names of all begin with guest-; did you mean "guest-ping"?
f:10:3: allow has no who; add who = "USER"`,
	} {
		_, err := Parse("f", []byte(src))
		if err == nil {
			t.Errorf("nothing is wrong with\n%s", src)
			continue
		}
		got := err.Error()
		if before, any := strings.CutSuffix(want, "*"); any && strings.HasPrefix(got, before) {
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n%s", src, diff)
		}
	}
}

// What all files allow together is allowed, and nothing else, to nobody else.
func TestSet_decides(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"a.toml": "[[agent]]\nmatch = ['web*', '6fa459ea-ee8a-3ca4-894e-db77e160355e']\n[[agent.allow]]\nwho = ['4711', '@4712']\ncommands = ['guest-ping', 'guest-file-*']\n",
		"b.toml": "[[agent]]\nmatch = 'web1'\nmax_line = 8192\n[[agent.allow]]\nwho = ['root', '@root', 'no-such-user', '@no-such-group']\ncommands = '*'\n[[agent.allow]]\nwho = '*'\ncommands = 'guest-info'\n" +
			"[[agent]]\nmatch = 'db'\nchannel = ['a.0', 'b.0']\n",
		"c.txt": "no drop-in file",
	})
	s := readDir(t, dir)
	if len(s.Broken) > 0 || len(s.Mistakes()) > 0 {
		t.Fatal(s.Mistakes())
	}
	alice, adm, root := sys.Cred{UID: 4711, GID: 1}, sys.Cred{UID: 1, GID: 1, Groups: []uint32{4712}}, sys.Cred{}
	for _, c := range []struct {
		domain, uuid, channel string
		who                   sys.Cred
		command, want         string
	}{
		{"web", "", DefaultChannel, alice, "guest-ping", "a.toml:3"},
		{"web", "", DefaultChannel, alice, "guest-file-open", "a.toml:3"},
		{"web", "", DefaultChannel, alice, "guest-exec", "not a.toml:1"},
		{"web", "", DefaultChannel, alice, "guest-pingx", "not a.toml:1"},
		{"web", "", DefaultChannel, adm, "guest-ping", "a.toml:3"},
		{"web", "", DefaultChannel, sys.Cred{UID: 4712, GID: 4711}, "guest-ping", "not a.toml:1"},
		{"web", "", DefaultChannel, root, "guest-ping", "not a.toml:1"},
		{"x", "6FA459EA-ee8a-3ca4-894e-db77e160355e", DefaultChannel, alice, "guest-ping", "a.toml:3"},
		{"web1", "", DefaultChannel, alice, "guest-ping", "a.toml:3"},
		{"web1", "", DefaultChannel, alice, "guest-info", "b.toml:7"},
		{"web1", "", DefaultChannel, alice, "guest-exec", "not a.toml:1"},
		{"web1", "", DefaultChannel, root, "guest-exec", "b.toml:4"},
		{"web1", "", DefaultChannel, sys.Cred{UID: 1<<32 - 1, GID: 1<<32 - 1}, "guest-exec", "not a.toml:1"},
		{"db", "", "b.0", root, "guest-ping", "not b.toml:10"},
		{"db", "", DefaultChannel, root, "guest-ping", "open"},
		{"other", "", DefaultChannel, root, "guest-ping", "open"},
		{"web", "", "another", root, "guest-ping", "open"},
		{"", "", DefaultChannel, alice, "guest-ping", "not the name of the domain cannot be read"},
		{"", "", "another", alice, "guest-ping", "open"},
	} {
		got := "open"
		if r := s.For(c.domain, c.uuid, c.channel); r != nil {
			ok, by := r.Decide(c.who, c.command)
			got = filepath.Base(by)
			if !ok {
				got = "not " + got
			}
			if want := map[bool]int{true: 8192, false: DefaultMaxLine}[c.domain == "web1" || c.domain == ""]; r.MaxLine != want {
				t.Errorf("%+v: lines of %d bytes", c, r.MaxLine)
			}
		}
		if got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
	if got := s.Strangers(); len(got) != 2 || !strings.Contains(got[0], `b.toml:4: this host has no "no-such-user"`) {
		t.Error(got)
	}
}

// A file with an error closes what it mentions, and the agent that all know; the
// others say what they say.
func TestReadDir_broken(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"a.toml": "[[agent]]\nmatch = 'web'\nchannel = 'good.0'\n[[agent.allow]]\nwho = '*'\ncommands = '*'\n",
		"b.toml": "[[agent]]\nmatch = 'db'\nchannel = 'bad.0'\n[[agent.alow]]\n",
		"c.toml": "channel = 'worse.0",
	})
	s := readDir(t, dir)
	if got := len(s.Mistakes()); got != 2 {
		t.Errorf("%d mistakes: %v", got, s.Mistakes())
	}
	for channel, want := range map[string]string{
		"good.0": "a.toml:4", "bad.0": "not b.toml, which has an error", "worse.0": "not c.toml, which has an error",
		DefaultChannel: "not c.toml, which has an error", "other.0": "open",
	} {
		got := "open"
		if r := s.For("web", "", channel); r != nil {
			ok, by := r.Decide(sys.Cred{}, "guest-ping")
			if got = filepath.Base(by); !ok {
				got = "not " + got
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", channel, got, want)
		}
	}
	if r := Closed(dir).For("web", "", DefaultChannel); r == nil {
		t.Error("a directory that cannot be read closes nothing")
	}
	again := readDir(t, dir)
	if !s.Same(again) {
		t.Error("nothing has changed")
	}
	write(t, dir, map[string]string{"c.toml": ""})
	if s.Same(readDir(t, dir)) {
		t.Error("a file has changed")
	}
	if empty := readDir(t, filepath.Join(dir, "none")); len(empty.Policies) > 0 || empty.For("web", "", DefaultChannel) != nil {
		t.Error("without files there are rules")
	}
}

package convert

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
	"github.com/xenchan/xenchan/channel/xlcfg"
)

// channels draws what one domain may have.
func channels() *rapid.Generator[[]channel.Spec] {
	text := rapid.StringOfN(rapid.RuneFrom([]rune(`az09.=-_ é字'"\;#[]+<>&]`)), 1, -1, 60).
		Filter(func(s string) bool { return strings.TrimSpace(s) == s })
	maybe := func(g *rapid.Generator[string]) *rapid.Generator[string] { return rapid.OneOf(rapid.Just(""), g) }
	spec := rapid.Custom(func(t *rapid.T) channel.Spec {
		s := channel.Spec{
			Name:       text.Draw(t, "name"),
			Connection: rapid.SampledFrom([]channel.Connection{channel.PTY, channel.Socket}).Draw(t, "connection"),
			Backend:    maybe(text).Draw(t, "backend"),
			Mode:       fs.FileMode(rapid.SampledFrom([]uint32{0, 0o600, 0o7}).Draw(t, "mode")),
			Owner:      maybe(rapid.Just("root")).Draw(t, "owner"),
			Group:      maybe(rapid.Just("42")).Draw(t, "group"),
			Spool:      rapid.SampledFrom([]int64{0, channel.MinSpool, channel.MinSpool + 1}).Draw(t, "spool"),
			Overflow:   rapid.SampledFrom([]channel.Overflow{"", channel.DropOldest, channel.Block}).Draw(t, "overflow"),
		}
		if s.Connection == channel.Socket {
			s.Path = rapid.OneOf(rapid.Just(""), rapid.Map(text, func(s string) string { return "/" + s })).Draw(t, "path")
			s.Allow = maybe(rapid.Just("alice:@adm")).Draw(t, "allow")
		}
		return s
	}).Filter(func(s channel.Spec) bool { return s.Validate() == nil })
	return rapid.SliceOfNDistinct(spec, 0, channel.MaxChannels, func(s channel.Spec) string { return s.Name })
}

func specsOf(t testing.TB, name, text string) []channel.Spec {
	t.Helper()
	f, err := Parse(name, []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	located, _, err := f.Channels()
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	specs := []channel.Spec{}
	for _, l := range located {
		specs = append(specs, l.Spec)
	}
	return specs
}

// From form to form, in any order, a channel stays what it is.
func TestFormat_roundTrips(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		want := channels().Draw(rt, "channels")
		got := want
		for i, form := range rapid.SliceOfN(rapid.SampledFrom(Forms()), 1, 5).Draw(rt, "forms") {
			text, err := Format(form, got)
			if err != nil {
				rt.Fatal(err)
			}
			if text == "" && len(got) == 0 && form == Libvirt {
				continue // no channels are no elements
			}
			if FormOf([]byte(text)) != form {
				rt.Fatalf("taken for %s, and is %s:\n%s", FormOf([]byte(text)), form, text)
			}
			got = specsOf(t, fmt.Sprint(i), text)
			if diff := cmp.Diff(want, got); diff != "" {
				rt.Fatalf("-want +got\n%s\n%s", diff, text)
			}
		}
	})
}

// file draws a configuration with channels anywhere in it. A change may touch the
// channels and our metadata and nothing else; rest is what then stays.
type file struct {
	form Form
	text string
}

func files() *rapid.Generator[file] {
	return rapid.Custom(func(t *rapid.T) file {
		if rapid.Bool().Draw(t, "xl") {
			return file{XL, drawXL(t)}
		}
		return file{Libvirt, drawXML(t)}
	})
}

func drawXL(t *rapid.T) string {
	pieces := []string{
		"# channel = [\n", "memory = 512\n", "vif = [ 'bridge=xenbr0',\n  # channel\n 'b' ]\n", "\n", "extra = \"channel = []\" ; on_crash='destroy'\n",
	}
	lists := []string{
		`channel = [ "connection=pty,name=old" ]` + "\n", "channel += [ # c\n\"connection=pty,name=a\",\n\t'connection=socket,path=/x,name=b' ]  # d\n",
		"channel = []\n", `x = 1; channel += [ "connection=socket,path=/y,name=c" ]; y = 2` + "\n",
	}
	text := "name = 'web'\n" + strings.Join(rapid.SliceOfN(rapid.SampledFrom(slices.Concat(pieces, lists)), 0, 6).Draw(t, "pieces"), "")
	if rapid.Bool().Draw(t, "no newline at the end") && !strings.Contains(text[strings.LastIndexByte(text[:len(text)-1], '\n')+1:], "#") {
		text = strings.TrimSuffix(text, "\n")
	}
	return text
}

func drawXML(t *rapid.T) string {
	newline := rapid.SampledFrom([]string{"\n", "\r\n", "\n\t", ""}).Draw(t, "newline")
	pieces := []string{
		"<!-- <channel/> -->", "<disk type='block'/>", "<![CDATA[<channel>]]>", "<console type='pty'><source path='/x'/></console>", "text", "<x:channel xmlns:x='http://example.org'/>",
		"<channel type='pty'><target type='xen' name='old'/></channel>", "<channel type='unix'>" + newline + "<source path='/x'/><target type='xen' name='a'/><alias name='z'/></channel>",
		"<channel  type = \"unix\"><target name='b' type='xen' /></channel >",
	}
	seen := map[string]bool{}
	var b strings.Builder
	for _, p := range rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 8).Draw(t, "pieces") {
		if !strings.Contains(p, "<channel") || !seen[p] {
			b.WriteString(newline + p)
		}
		seen[p] = true
	}
	devices := rapid.SampledFrom([]string{"<devices>" + b.String() + newline + "</devices>", "<devices/>", "<devices  />", ""}).Draw(t, "devices")
	metadata := rapid.SampledFrom([]string{
		"", "<metadata/>", "<metadata>" + newline + "</metadata>", "<metadata><app xmlns='http://example.org'><channels/></app></metadata>",
		"<metadata>" + newline + "<channels xmlns='https://github.com/xenchan/xenchan'/>" + newline + "</metadata>",
	}).Draw(t, "metadata")
	return "<domain type='xen'>" + newline + "<name>web</name>" + newline + metadata + newline + devices + newline + "</domain>" + newline
}

var removed = map[Form]*regexp.Regexp{
	XL:      regexp.MustCompile(`(?s)channel \+?= \[([^\]"']|"(\\.|[^"\\])*"|'[^']*')*\]`),
	Libvirt: regexp.MustCompile(`(?s)<channel [^>]*>.*?</channel *>|<(xenchan:)?channels xmlns[^>]*(/>|>.*?</xenchan:channels>)|</?(devices|metadata) */?>`),
}

// rest is a file without its channels, and without blanks, which a line that is
// taken away takes with it.
func (f file) rest() string {
	kept := regexp.MustCompile(`<!--.*?-->|<!\[CDATA\[.*?\]\]>|(?m)^# channel.*$|"channel = \[\]"|# channel`)
	text := kept.ReplaceAllStringFunc(f.text, func(s string) string { return strings.ReplaceAll(s, "channel", "CHANNEL") })
	text = removed[f.form].ReplaceAllString(text, "")
	return strings.Join(strings.Fields(text), "")
}

func TestReplace_leavesTheRestAlone(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		before := files().Draw(rt, "file")
		f, err := Parse("before", []byte(before.text))
		if err != nil {
			rt.Fatalf("%v in\n%s", err, before.text)
		}
		if _, _, err := f.Channels(); err != nil {
			rt.Skip("two channels of one name")
		}
		had := specsOf(t, "before", before.text)
		if same, err := f.Replace(had); err != nil || same != before.text {
			rt.Fatalf("with its own channels (%v):\n%s\nbecomes\n%s", err, before.text, same)
		}
		want := rapid.OneOf(channels(), rapid.Just(had[:len(had)/2])).Draw(rt, "channels")
		text, err := f.Replace(want)
		if err != nil {
			rt.Fatalf("%v in\n%s", err, before.text)
		}
		if diff := cmp.Diff(want, specsOf(t, "after", text)); diff != "" {
			rt.Fatalf("-want +got\n%s\n%s", diff, text)
		}
		if a, b := before.rest(), (file{before.form, text}).rest(); a != b {
			rt.Fatalf("%s\nbecomes\n%s\nwhich has more than channels changed:\n%s\n%s", before.text, text, a, b)
		}
		again, err := Parse("after", []byte(text))
		if err != nil {
			rt.Fatal(err)
		}
		if twice, err := again.Replace(want); err != nil || twice != text {
			rt.Fatalf("twice is not once (%v):\n%s\n%s", err, text, twice)
		}
	})
}

func TestFormat_saysWhatAFormLacks(t *testing.T) {
	specs := []channel.Spec{{Name: "a", Connection: channel.Socket, Path: "/a\ufffe"}} // no character of XML
	if err := specs[0].Validate(); err != nil {
		t.Fatal(err)
	}
	if text, err := Format(Libvirt, specs); err == nil {
		t.Errorf("written as %q", text)
	}
	if _, err := Format(XL, specs); err != nil {
		t.Error(err)
	}
	if _, err := Format("yaml", nil); err == nil {
		t.Error("a form of yaml")
	}
}

func TestFormOf(t *testing.T) {
	for text, want := range map[string]Form{
		"": XL, "name = 'a'": XL, " # <\n": XL, "\n <domain/>": Libvirt, "\ufeff<domain/>": Libvirt,
		"\xff\xfe<\x00d\x00": Libvirt, "{}": JSON, "\r\n[]": JSON, "\xfe\xff\x00n": XL,
	} {
		if got := FormOf([]byte(text)); got != want {
			t.Errorf("FormOf(%q) = %s, want %s", text, got, want)
		}
	}
}

func TestJSON(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", `{}`, ""},
		{"none", `{"channels": null}`, ""},
		{"list", ` [{"domid": 3, "config": {"channels": [{"name": "a", "connection.pty": {}}]}}]`, "connection=pty,name=a"},
		{"backend by number", `{"channels": [{"name": "a", "backend_domid": 3, "connection.pty": {}}]}`, "connection=pty,name=a,backend=3"},
		{"ours", `{"channels": [{"name": "a", "connection.socket": {}, "xenchan": {"spool": "8k"}}]}`, "connection=socket,name=a,spool=8KiB"},
		{"no connection", "{\"channels\": [\n{\"name\": \"a\"}]}", "x:2:1: the channel has not one connection"},
		{"two connections", `{"channels": [{"connection.pty": {}, "connection.socket": {}}]}`, "x:1:15: the channel has not one connection"},
		{"no name", `{"channels": [{"connection.pty": {}}]}`, "x:1:15: the channel has no name"},
		{"not ours", `{"channels": [{"name": "a", "connection.pty": {}, "xenchan": {"colour": "red"}}]}`, `x:1:15: unknown key "colour"`},
		{"bad value", `{"channels": [{"name": "a", "connection.pty": {}, "xenchan": {"mode": "9"}}]}`, `x:1:15: mode "9" is not an octal number`},
		{"wrong kind", `{"channels": [ {"name": 7} ]}`, "x:1:25: a number where libxl has another kind of value"},
		{"no list", `{"channels": {}}`, "x:1:14: a object where"},
		{"no domain", `[]`, "x:1:1: a list of 0 domains"},
		{"two domains", `[{}, {}]`, "x:1:1: a list of 2 domains"},
		{"half", "{\n\"channels\": [", "x:2:14: not well-formed JSON"},
		{"two", `{} {}`, "x:1:4: not well-formed JSON"},
		{"deep", strings.Repeat(`{"a":`, 20_000), "x:1:50001: not well-formed JSON: invalid character"},
		{"large", "{" + strings.Repeat(" ", xlcfg.MaxFileSize), "x:1:1: file of 1048577 bytes"},
	} {
		var got string
		f, err := Parse("x", []byte(c.text))
		if err == nil {
			var specs []domcfg.Located
			if specs, _, err = f.Channels(); err == nil {
				for _, s := range specs {
					got += s.String()
				}
			}
		}
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	f, err := Parse("x", []byte(`{"c_info": {"name": "web", "uuid": "6C8A31F0-5B0A-4A55-9D2F-0D8B1A3F7E11"}}`))
	if err != nil {
		t.Fatal(err)
	}
	name, nameErr := f.DomainName()
	uuid, uuidErr := f.DomainUUID()
	if name != "web" || uuid != "6c8a31f0-5b0a-4a55-9d2f-0d8b1a3f7e11" || nameErr != nil || uuidErr != nil {
		t.Errorf("%q %v, %q %v", name, nameErr, uuid, uuidErr)
	}
}

// Any bytes give an error with a place in them, or channels that can be written in
// every form and put into the file.
func FuzzParse(f *testing.F) {
	seeds := 0
	for _, pattern := range []string{"../domxml/testdata/*.xml", "../xlcfg/testdata/*.cfg", "testdata/*.json"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			src, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
			seeds++
		}
	}
	if seeds < 50 {
		f.Fatalf("only %d seeds", seeds)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		file, err := Parse("x", src)
		if err != nil {
			checkErrors(t, err, src)
			return
		}
		if _, _, err := file.Stock(xlcfg.Version{}); err != nil {
			checkErrors(t, err, src)
		}
		located, _, err := file.Channels()
		if err != nil {
			checkErrors(t, err, src)
			return
		}
		specs := []channel.Spec{}
		for _, l := range located {
			specs = append(specs, l.Spec)
		}
		for _, form := range Forms() {
			if text, err := Format(form, specs); err != nil && !strings.Contains(string(src), "\uffff") && !strings.Contains(string(src), "\ufffe") {
				t.Errorf("%v: %q", err, text)
			}
		}
		moves := strings.Contains(string(src), "virtio") // which become Xen's
		if text, err := file.Replace(specs); err == nil && text != string(src) && !moves {
			t.Errorf("with its own channels %q becomes %q", src, text)
		} else if more, err := file.Replace([]channel.Spec{{Name: "new", Connection: channel.PTY, Backend: "b"}}); err == nil {
			if got := specsOf(t, "changed", more); len(got) != 1 || got[0].Name != "new" {
				t.Errorf("%q becomes %q", src, more)
			}
		}
	})
}

func checkErrors(t *testing.T, err error, src []byte) {
	t.Helper()
	all, ok := errors.AsType[domcfg.Errors](err)
	if !ok || len(all) == 0 {
		t.Fatalf("%T %v", err, err)
	}
	lines := strings.Count(string(src), "\n") + 1
	for _, e := range all {
		if e.Line < 1 || e.Line > lines || e.Col < 1 || e.Col > len(src)+1 || e.What == "" {
			t.Errorf("%v of %q", e, src)
		}
		e.Snippet()
	}
}

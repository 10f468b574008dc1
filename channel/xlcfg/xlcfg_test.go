package xlcfg

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/xlcfg/xlcfgtest"
)

func mustParse(t testing.TB, src string) *File {
	t.Helper()
	f, err := Parse("t.cfg", []byte(src))
	if err != nil {
		t.Fatalf("%q: %v", src, err)
	}
	return f
}

// ignorePlace leaves bytes to TestParse_readsWhatIsWritten.
var ignorePlace = cmpopts.IgnoreFields(Value{}, "Start", "End")

func TestGet_lastAssignmentWins(t *testing.T) {
	f := mustParse(t, "s = 'a'\nn = 1\nl = ['x']\ns += 'b'; s += 3\nn = 2\nl += ['y',\n 'z']\nnew += 'n'\nn = 07\nr = ['gone']\nr = 'text'\nr += '!'\n")
	for key, want := range map[string]Value{
		"s":   {Kind: String, Text: "ab3", Line: 1, Col: 5},
		"n":   {Kind: Number, Text: "07", Line: 9, Col: 5},
		"new": {Kind: String, Text: "n", Line: 8, Col: 8},
		"r":   {Kind: String, Text: "text!", Line: 11, Col: 5},
		"l": {Kind: List, Line: 3, Col: 5, List: []Value{
			{Kind: String, Text: "x", Line: 3, Col: 6}, {Kind: String, Text: "y", Line: 6, Col: 7}, {Kind: String, Text: "z", Line: 7, Col: 2},
		}},
	} {
		got, ok := f.Get(key)
		if diff := cmp.Diff(want, got, ignorePlace, cmpopts.IgnoreUnexported(Value{})); !ok || diff != "" {
			t.Errorf("%s: -want +got\n%s", key, diff)
		}
	}
	if _, ok := f.Get("none"); ok {
		t.Error("Get found a key that is not there")
	}
	if n := len(f.Assignments); n != 12 {
		t.Errorf("%d assignments, want 12", n)
	}
	l, _ := f.Get("l")
	if line, col := l.List[2].At(0); line != 7 || col != 3 {
		t.Errorf("the last item of l is at %d:%d, want 7:3", line, col)
	}
	// Joining must not write into the statements.
	if first := f.Assignments[2].Value; len(first.List) != 1 {
		t.Errorf("Get changed the first list to %+v", first)
	}
}

func TestInt(t *testing.T) {
	f := mustParse(t, "v = [ 0, 10, 010, 0x1f, '-5', ' 7', '+0x10', '9223372036854775807' ]\n"+
		"bad = [ 08, 0x, '', '1 ', '1M', '0b1', '0o7', '1_0', '--1', '9223372036854775808', [] ]\n")
	v, _ := f.Get("v")
	for i, want := range []int64{0, 10, 8, 31, -5, 7, 16, 1<<63 - 1} {
		if got, err := v.List[i].Int(); err != nil || got != want {
			t.Errorf("Int of %q = %d, %v; want %d", v.List[i].Text, got, err, want)
		}
	}
	bad, _ := f.Get("bad")
	for _, v := range bad.List {
		if got, err := v.Int(); err == nil {
			t.Errorf("Int of %+v = %d", v, got)
		}
	}
}

func TestParse_limits(t *testing.T) {
	big := make([]byte, 10<<20)
	if f, err := Parse("big.cfg", big); f != nil || len(errorsOf(err)) != 1 || !strings.Contains(err.Error(), "10485760 bytes") {
		t.Errorf("10 MiB: %v, %v", f, err)
	}
	full := "a = 1\n" + strings.Repeat("#", MaxFileSize-7) + "\n"
	if _, err := Parse("full.cfg", []byte(full)); err != nil {
		t.Errorf("a file of just %d bytes: %v", len(full), err)
	}
	nest := func(n int) string { return "a = " + strings.Repeat("[", n) + strings.Repeat("]", n) + "\n" }
	mustParse(t, nest(MaxDepth))
	if _, err := Parse("deep.cfg", []byte(nest(MaxDepth+1))); err == nil {
		t.Error("one level too many was accepted")
	}
	if _, err := Parse("deep.cfg", []byte("a = "+strings.Repeat("[", MaxFileSize-10))); err == nil {
		t.Error("a million open brackets were accepted")
	}
	_, err := Parse("junk.cfg", []byte(strings.Repeat("?\n", 1000)))
	errs := errorsOf(err)
	if len(errs) != maxErrors+1 || errs[maxErrors].What != tooMany {
		t.Errorf("junk gave %d errors, the last %v", len(errs), errs[len(errs)-1])
	}
	f := mustParse(t, "channel = ["+strings.Repeat("'q=1,w',", MaxFileSize/9)+"]")
	_, warnings, err := Channels(f)
	if errs := errorsOf(err); len(errs) != maxErrors+1 || len(warnings) == 0 || len(warnings) > maxErrors {
		t.Errorf("a hundred thousand bad channels gave %d errors and %d warnings", len(errs), len(warnings))
	}
}

func TestMessage_text(t *testing.T) {
	_, err := Parse("t.cfg", []byte("a = 1\n\tname = x\x1b\n"))
	errs := errorsOf(err)
	if len(errs) != 1 {
		t.Fatal(err)
	}
	if got, want := err.Error(), `t.cfg:2:9: expected a value for "name", found "x": text must stand in quotes; write "x"`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := errs[0].Snippet(), "    2 | \tname = x.\n      | \t       ^\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	long := Message{Line: 1, Col: 500, Text: strings.Repeat("é", 400)}
	text, caret, _ := strings.Cut(long.Snippet(), "\n")
	if n := len([]rune(text)); n > 120 || strings.ContainsRune(text, '\ufffd') {
		t.Errorf("a long line shows %d characters: %s", n, text)
	}
	if strings.Index(caret, "^") < 8 {
		t.Errorf("no caret: %q", caret)
	}
}

func TestDomain(t *testing.T) {
	for _, tt := range []struct{ src, name, uuid, bad string }{
		{"name='a'\n", "a", "", ""},
		{"name=7\nuuid='01234567-89AB-cdef-0123-456789abcdef'", "7", "01234567-89ab-cdef-0123-456789abcdef", ""},
		{"uuid='0123456789abcdef0123456789abcdef'\nname='a'\n", "a", "", "1:6: "},
		{"uuid='01234567-89ab-cdef-0123-456789abcdeg'\nname='a'\n", "a", "", "1:6: "},
		{"name='a'\nuuid=['x']\n", "a", "", "2:6: "},
		{"memory=1\n", "", "", "1:1: "},
		{"\nname=''\n", "", "", "2:6: "},
		{"name=['a']\n", "", "", "1:6: "},
	} {
		f := mustParse(t, tt.src)
		name, err := f.DomainName()
		uuid, err2 := f.DomainUUID()
		if err == nil {
			err = err2
		}
		if name != tt.name || uuid != tt.uuid || (err == nil) != (tt.bad == "") || err != nil && !strings.HasPrefix(err.Error(), "t.cfg:"+tt.bad) {
			t.Errorf("%q: %q, %q, %v", tt.src, name, uuid, err)
		}
	}
}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.cfg")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples, %v", err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f := mustParse(t, string(src))
		if _, err := f.DomainName(); err != nil {
			t.Error(err)
		}
		specs, _, err := Channels(f)
		if err != nil || len(specs) == 0 {
			t.Errorf("%s: %d channels, %v", file, len(specs), err)
		}
	}
}

// printer writes values in the many ways that the language allows, and knows
// where each of them went.
type printer struct {
	*rapid.T
	strings.Builder
	line, col int
}

func (p *printer) put(s string) {
	for i := range len(s) {
		if p.col++; s[i] == '\n' {
			p.line, p.col = p.line+1, 1
		}
	}
	p.WriteString(s)
}

func (p *printer) space() {
	p.put(rapid.SampledFrom([]string{"", "", " ", "\t", "  "}).Draw(p.T, "space"))
}
func (p *printer) spaces() { p.put(rapid.SampledFrom(layouts).Draw(p.T, "layout")) }

var layouts = []string{"", " ", "\n", " # \"comment\" ] \n", "\n\n\t", "#\n#\r\n"}

// char is a byte of a string's meaning and one way to write it.
type char struct{ text, raw string }

func chars(quote string) *rapid.Generator[char] {
	all := []char{
		{"a", "a"},
		{"=", "="},
		{",", ","},
		{"#", "#"},
		{"]", "]"},
		{" ", " "},
		{"é", "é"},
		{"\r", "\r"},
		{"\n", `\n`},
		{"\t", `\t`},
		{"\t", "\t"},
		{"\\", `\\`},
		{`"`, `\"`},
		{"'", `\'`},
		{"\a\b\f\r\v", `\a\b\f\r\v`},
		{"", `\012`},
		{"", `\7999`},
	}
	if quote == "'" {
		all = append(all, char{`"`, `"`})
	} else {
		all = append(all, char{"'", "'"})
	}
	return rapid.SampledFrom(all)
}

func (p *printer) value(depth int) Value {
	v := Value{Line: p.line, Col: p.col, Start: p.Len()}
	kind := rapid.IntRange(0, 3).Draw(p.T, "kind")
	switch {
	case kind == 0:
		v.Kind, v.Text = Number, rapid.StringMatching(`[0-9][0-9a-fx]{0,5}`).Draw(p.T, "number")
		p.put(v.Text)
	case kind == 1 || depth == 0:
		quote := rapid.SampledFrom([]string{"'", `"`}).Draw(p.T, "quote")
		v.Kind = String
		p.put(quote)
		for _, c := range rapid.SliceOfN(chars(quote), 0, 8).Draw(p.T, "chars") {
			v.Text += c.text
			p.put(c.raw)
		}
		p.put(quote)
	default:
		v.Kind = List
		p.put("[")
		p.spaces()
		n := rapid.IntRange(0, 4).Draw(p.T, "items")
		for i := range n {
			v.List = append(v.List, p.value(depth-1))
			p.spaces()
			if i < n-1 || rapid.Bool().Draw(p.T, "trailing comma") {
				p.put(",")
				p.spaces()
			}
		}
		p.put("]")
	}
	v.End = p.Len()
	return v
}

func TestParse_readsWhatIsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &printer{T: t, line: 1, col: 1}
		var want []Assignment
		n := rapid.IntRange(0, 5).Draw(t, "assignments")
		for i := range n {
			p.put(rapid.SampledFrom([]string{"", "\n", ";", " ; ", "# x = 1\n"}).Draw(t, "between"))
			p.space()
			a := Assignment{Key: rapid.StringMatching(`[a-z][a-z0-9._]{0,3}`).Draw(t, "key") + fmt.Sprint(i), Line: p.line, Col: p.col, Start: p.Len()}
			p.put(a.Key)
			p.space()
			if a.Append = rapid.Bool().Draw(t, "append"); a.Append {
				p.put("+")
			}
			p.put("=")
			p.space()
			a.Value = p.value(3)
			a.End = a.Value.End
			p.space()
			if i < n-1 || rapid.Bool().Draw(t, "final newline") {
				p.put(rapid.SampledFrom([]string{"\n", ";", "#\n"}).Draw(t, "end"))
			}
			want = append(want, a)
		}
		f, err := Parse("t.cfg", []byte(p.String()))
		if err != nil {
			t.Fatalf("%q: %v", p.String(), err)
		}
		if diff := cmp.Diff(want, f.Assignments, cmpopts.IgnoreUnexported(Value{})); diff != "" {
			t.Fatalf("%q: -want +got\n%s", p.String(), diff)
		}
	})
}

func TestAt_pointsIntoTheString(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw, text := "", ""
		var cols []int
		for _, c := range rapid.SliceOf(chars("'").Filter(func(c char) bool { return len(c.text) < 2 })).Draw(t, "chars") {
			if c.text != "" {
				cols = append(cols, len("ab = '")+1+len(raw))
			}
			raw, text = raw+c.raw, text+c.text
		}
		f, err := Parse("t.cfg", []byte("\nab = '"+raw+"'"))
		if err != nil {
			t.Fatal(err)
		}
		v, _ := f.Get("ab")
		for i, want := range cols {
			if line, col := v.At(i); line != 2 || col != want {
				t.Fatalf("byte %d of '%s' is at %d:%d, want 2:%d", i, raw, line, col, want)
			}
		}
	})
}

// inside says whether a message points at a byte of src or just behind a line.
func inside(m Message, src string) bool {
	lines := strings.Split(src, "\n")
	return m.Line >= 1 && m.Line <= len(lines) && m.Col >= 1 && m.Col <= len(lines[m.Line-1])+1
}

func FuzzParse(f *testing.F) {
	for _, c := range xlcfgtest.Cases(f) {
		f.Add(c.Source)
	}
	f.Add([]byte("channel=['connection=pty,name=a','name=a,\\tconnection=pty']\x00\nx='\x00'"))
	f.Fuzz(func(t *testing.T, src []byte) {
		file, err := Parse("f.cfg", src)
		if (file == nil) != (err != nil) || (err != nil) != (len(errorsOf(err)) > 0) {
			t.Fatalf("Parse = %v, %v", file, err)
		}
		checkPlaces(t, string(src), err, nil)
		if file == nil {
			return
		}
		served, warnings, err := Channels(file)
		checkPlaces(t, string(src), err, warnings)
		if err != nil && (served != nil || len(errorsOf(err)) == 0) {
			t.Fatalf("Channels = %v, %v", served, err)
		}
		for _, s := range served {
			if err := s.Validate(); err != nil {
				t.Fatalf("Channels gave %v: %v", s, err)
			}
		}
		stock, warnings, stockErr := Stock(file, Version{})
		checkPlaces(t, string(src), stockErr, warnings)
		if err == nil && stockErr == nil && !slices.Equal(stock, served) {
			t.Fatalf("Stock gave %v and Channels %v", stock, served)
		}
		checkAssignments(t, string(src), file)
		if stockErr == nil {
			checkReplace(t, file)
		}
	})
}

func checkPlaces(t *testing.T, src string, err error, warnings []Warning) {
	t.Helper()
	messages := []Message{}
	for _, e := range errorsOf(err) {
		messages = append(messages, e.Message)
	}
	for _, w := range warnings {
		messages = append(messages, w.Message)
	}
	for _, m := range messages {
		if !inside(m, src) || m.Snippet() == "" {
			t.Fatalf("%v is not in the file", m)
		}
	}
}

// checkAssignments looks whether the bytes of an assignment are it, no more and no less.
func checkAssignments(t *testing.T, src string, f *File) {
	t.Helper()
	for _, a := range f.Assignments {
		again, err := Parse("f.cfg", []byte(src[a.Start:a.End]))
		if err != nil || len(again.Assignments) != 1 {
			t.Fatalf("%q is not an assignment: %v", src[a.Start:a.End], err)
		}
		b := again.Assignments[0]
		if a.Key != b.Key || a.Append != b.Append || b.Start != 0 || b.End != a.End-a.Start || !moved(a.Value, b.Value, a.Start) {
			t.Fatalf("%q is %+v by itself, and %+v in the file", src[a.Start:a.End], b, a)
		}
	}
}

// moved says whether b is a, by bytes further to the front.
func moved(a, b Value, by int) bool {
	return a.Kind == b.Kind && a.Text == b.Text && a.Start-by == b.Start && a.End-by == b.End &&
		slices.EqualFunc(a.List, b.List, func(a, b Value) bool { return moved(a, b, by) })
}

// checkReplace gives f other channels: xl then makes those, and a second time changes nothing.
func checkReplace(t *testing.T, f *File) {
	t.Helper()
	specs := []channel.Spec{{Name: "new", Connection: channel.PTY}, {Name: "a \"b\" \\", Connection: channel.Socket, Path: "/run/a"}}
	text, err := Replace(f, specs)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse("f.cfg", []byte(text))
	if err != nil {
		t.Fatalf("Replace made %q: %v", text, err)
	}
	got, _, err := Stock(again, Version{})
	if err != nil || len(got) != len(specs) || got[0].Spec != specs[0] || got[1].Spec != specs[1] {
		t.Fatalf("Replace made %q: %v, %v", text, got, err)
	}
	if same, err := Replace(again, specs); err != nil || same != text {
		t.Fatalf("Replace made %q of %q: %v", same, text, err)
	}
}

package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                     "",
		"org.example.ä.0 日":    "org.example.ä.0 日",
		"a\x1b[2J":             `a\x1b[2J`,
		"\u009b":               `\u009b`,
		"\u202e\u2028":         `\u202e\u2028`,
		"\U000e0001":           `\U000e0001`,
		"\xff\xc3":             `\xff\xc3`,
		"\uFFFD":               "\uFFFD",
		"tab\tline\nreturn\r":  `tab\x09line\x0areturn\x0d`,
		"no-break\u00a0space":  `no-break\u00a0space`,
		"back\\slash \"quoted": "back\\slash \"quoted",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestPrintable_always(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) + rapid.String().Draw(t, "text")
		got := printable(in)
		if !utf8.ValidString(got) || strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
			t.Fatalf("printable(%q) = %q", in, got)
		}
	})
}

// What is escaped for the terminal means the same to a program.
func TestPrintJSON_always(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.String().Draw(t, "text")
		var out bytes.Buffer
		if err := (&app{stdout: &out}).printJSON(map[string]string{"name": in}); err != nil {
			t.Fatal(err)
		}
		var back map[string]string
		if err := json.Unmarshal(out.Bytes(), &back); err != nil || back["name"] != in {
			t.Fatalf("%s gives %q, %v; want %q", &out, back["name"], err, in)
		}
		if strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) >= 0 {
			t.Fatalf("raw in JSON: %q", &out)
		}
	})
}

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// printable escapes what a terminal would act on and what could pass for
// something else: control characters, bidirectional overrides, broken UTF-8.
// Names and paths in xenstore may come from other tools, and states from guests.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && s[i] != "\uFFFD"[0], r < utf8.RuneSelf && !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !unicode.IsPrint(r) && r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		case !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// cell is a printable cell of a table, never empty.
func cell(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}

// printJSON writes v for programs and for terminals: what encoding/json leaves
// raw and a terminal would act on is written as \u escapes, which mean the same.
func (a *app) printJSON(v any) error { return a.writeJSON(v, "  ") }

// printJSONLine is printJSON on one line.
func (a *app) printJSONLine(v any) error { return a.writeJSON(v, "") }

func (a *app) writeJSON(v any, indent string) error {
	var plain bytes.Buffer
	e := json.NewEncoder(&plain)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return err
	}
	var safe bytes.Buffer
	for _, r := range plain.String() {
		if r < 0x7f || unicode.IsPrint(r) {
			safe.WriteRune(r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			fmt.Fprintf(&safe, `\u%04x`, unit)
		}
	}
	_, err := a.stdout.Write(safe.Bytes())
	return err
}

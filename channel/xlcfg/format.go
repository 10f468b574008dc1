package xlcfg

import (
	"slices"
	"strings"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
)

// Format is specs as the parameter channel, with a newline at its end.
func Format(specs []channel.Spec) string {
	var b strings.Builder
	b.WriteString("channel = [")
	for _, s := range specs {
		b.WriteString("\n    " + quote(s.String()) + ",")
	}
	if len(specs) > 0 {
		b.WriteString("\n")
	}
	b.WriteString("]\n")
	return b.String()
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Replace is the text of f with specs in place of its channels. Every other byte
// that xl reads stays, and all of them when these are its channels already. The error is that
// of [Stock].
func Replace(f *File, specs []channel.Spec) (string, error) {
	had, _, err := Stock(f, Version{})
	if err != nil {
		return "", err
	}
	if slices.EqualFunc(had, specs, func(l Located, s channel.Spec) bool { return l.Spec == s }) {
		return f.src.Text, nil
	}
	text, placed := Format(specs), len(specs) == 0
	var edits []domcfg.Edit
	for _, a := range f.Assignments {
		switch {
		case a.Key != "channel":
		case !placed:
			edits = append(edits, domcfg.Edit{Start: a.Start, End: a.End, Text: strings.TrimSuffix(text, "\n")})
			placed = true
		default:
			start, end := f.src.WholeLines(a.Start, a.End)
			edits = append(edits, domcfg.Edit{Start: start, End: end})
		}
	}
	if !placed {
		if f.end > 0 && f.src.Text[f.end-1] != '\n' {
			text = "\n" + text
		}
		edits = append(edits, domcfg.Edit{Start: f.end, End: len(f.src.Text), Text: text})
	}
	return f.src.Apply(edits), nil
}

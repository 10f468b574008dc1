package domcfg

import (
	"cmp"
	"slices"
	"strings"
)

// Place is a line and a column of a file. Both count from 1, columns in bytes.
type Place struct{ Line, Col int }

// Source is the text of a file that messages point into.
type Source struct {
	// Name is the file's name in messages.
	Name string
	Text string

	lines []int // offset in Text of the first byte of each line
}

// NewSource is a Source for text.
func NewSource(name, text string) *Source {
	s := &Source{Name: name, Text: text, lines: []int{0}}
	for i := range len(text) {
		if text[i] == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	return s
}

// Place is where the byte at offset stands.
func (s *Source) Place(offset int) Place {
	offset = min(max(offset, 0), len(s.Text))
	line, found := slices.BinarySearch(s.lines, offset)
	if !found {
		line--
	}
	return Place{Line: line + 1, Col: offset - s.lines[line] + 1}
}

// Message is one about the place at.
func (s *Source) Message(at Place, key, what, why, fix string) Message {
	line, _, _ := strings.Cut(s.Text[s.lines[at.Line-1]:], "\n")
	return Message{File: s.Name, Line: at.Line, Col: at.Col, Key: key, What: what, Why: why, Fix: fix, Text: line}
}

// Edit replaces Text[Start:End] of a Source.
type Edit struct {
	Start, End int
	Text       string
}

// Apply is the text with edits made, which do not overlap. Every other byte stays.
func (s *Source) Apply(edits []Edit) string {
	edits = slices.Clone(edits)
	slices.SortStableFunc(edits, func(a, b Edit) int { return cmp.Compare(a.Start, b.Start) })
	var b strings.Builder
	done := 0
	for _, e := range edits {
		b.WriteString(s.Text[done:e.Start])
		b.WriteString(e.Text)
		done = e.End
	}
	b.WriteString(s.Text[done:])
	return b.String()
}

// WholeLines widens Text[start:end] to whole lines when nothing else but blanks is
// on them, so that to remove it leaves no empty line.
func (s *Source) WholeLines(start, end int) (int, int) {
	from, to := start, end
	for from > 0 && (s.Text[from-1] == ' ' || s.Text[from-1] == '\t') {
		from--
	}
	for to < len(s.Text) && strings.IndexByte(" \t\r", s.Text[to]) >= 0 {
		to++
	}
	if (from == 0 || s.Text[from-1] == '\n') && to < len(s.Text) && s.Text[to] == '\n' {
		return from, to + 1
	}
	return start, end
}

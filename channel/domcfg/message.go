// Package domcfg has what the forms of a domain's configuration have in common, xl's
// and libvirt's: a channel and where it stands in a file, and messages about a place.
package domcfg

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/xenchan/xenchan/channel"
)

// Located is a channel and where in the file it begins. Its JSON and its String
// are those of the Spec.
type Located struct {
	channel.Spec
	File      string
	Line, Col int
	// NameAt and PathAt are where its name and its path stand, if it has them.
	NameAt, PathAt Place
}

// Message is a place in a file and what there is to say about it.
type Message struct {
	File string
	// Line and Col count from 1, Col in bytes. What is at the end of a line or
	// of the file has the column after the last byte.
	Line, Col int
	// Key is the parameter, or the key in a channel's string, it is about; may be empty.
	Key string
	// What is wrong, Why, and the Fix. Why and Fix may be empty.
	What, Why, Fix string

	// Text is the line it is about, for Snippet.
	Text string
}

// String is "FILE:LINE:COL: what: why; fix", without what is empty.
func (m Message) String() string {
	s := fmt.Sprintf("%s:%d:%d: %s", m.File, m.Line, m.Col, m.What)
	if m.Why != "" {
		s += ": " + m.Why
	}
	if m.Fix != "" {
		s += "; " + m.Fix
	}
	return s
}

// Snippet is the line of the file, or the part of a long one, with a caret under
// the column, as two lines that each end in a newline. Control characters show
// as a dot.
func (m Message) Snippet() string {
	const before, width = 60, 100
	at := min(max(m.Col-1, 0), len(m.Text))
	from, to := max(at-before, 0), len(m.Text)
	to = min(to, from+width)
	for from > 0 && !utf8.RuneStart(m.Text[from]) {
		from--
	}
	for to < len(m.Text) && !utf8.RuneStart(m.Text[to]) {
		to++
	}
	margin := fmt.Sprintf("%5d | ", m.Line)
	pad := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, m.Text[from:at])
	return margin + printable(m.Text[from:to]) + "\n" + strings.Repeat(" ", len(margin)-2) + "| " + pad + "^\n"
}

// printable keeps a file from writing escape sequences to the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && !unicode.IsPrint(r) {
			return '.'
		}
		return r
	}, s)
}

// Error is one thing wrong with a file.
type Error struct{ Message }

// Error is the same as String.
func (e *Error) Error() string { return e.String() }

// Errors is all that is wrong with a file, in its order; never empty as an error.
type Errors []*Error

// Error is one line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives each error to errors.Is and errors.As.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}

// Warning is what stock xl does with a file without an error, and what its
// author hardly wants.
type Warning struct {
	Message
	// Note is true for what concerns some versions of xl only and is no fault
	// of the file.
	Note bool
}

// TooLarge is the error for a file of n bytes, more than most.
func TooLarge(file string, n, most int) error {
	return Errors{{Message: Message{
		File: file, Line: 1, Col: 1,
		What: fmt.Sprintf("file of %d bytes", n),
		Why:  fmt.Sprintf("a domain configuration has at most %d", most),
		Fix:  "check that this is the right file",
	}}}
}

// IsUUID says that s is a uuid as xl and libvirt print one, in either case.
func IsUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (s[i] == '-') || !dash && !strings.ContainsRune("0123456789abcdefABCDEF", rune(s[i])) {
			return false
		}
	}
	return true
}

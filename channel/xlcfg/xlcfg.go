// Package xlcfg reads the language of xl's domain configuration files (xl.cfg)
// and the channels in them. It accepts what stock xl accepts and refuses what xl
// refuses, but it says where, why and what to do, and reports all errors at once.
//
//	file       = { [ assignment ] ( newline | ";" ) } [ assignment ]
//	assignment = ident ( "=" | "+=" ) value
//	value      = string | number | list
//	list       = "[" [ value { "," value } [ "," ] ] "]"     newlines may follow "[", "," and a value
//	ident      = [a-z] { [a-z0-9._] }
//	number     = [0-9] { [0-9a-fx] }
//	string     = one line in ' or ", with backslash escapes
//	comment    = "#" up to and including the newline
//
// Lines and columns count from 1, and columns are in bytes, as in messages of the
// Go and C compilers.
package xlcfg

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/xenchan/xenchan/channel/domcfg"
)

const (
	// MaxFileSize is the largest file that Parse reads, in bytes. A domain
	// configuration has a few hundred lines at most.
	MaxFileSize = 1 << 20
	// MaxDepth is how deep lists may be nested. Real files have two levels; xl
	// takes some thousands, depending on what is in them.
	MaxDepth = 1000
)

// What is said of a file is said as of every domain configuration.
type (
	Located = domcfg.Located
	Message = domcfg.Message
	Error   = domcfg.Error
	Errors  = domcfg.Errors
	Warning = domcfg.Warning
)

// Kind says what a [Value] is.
type Kind uint8

// The kinds of values. To xl a number is a string without quotes.
const (
	String Kind = iota + 1
	Number
	List
)

// String is the word that messages use.
func (k Kind) String() string {
	switch k {
	case String:
		return "string"
	case Number:
		return "number"
	case List:
		return "list"
	}
	return "Kind(" + strconv.Itoa(int(k)) + ")"
}

// Value is one value and where it stands.
type Value struct {
	Kind Kind
	// Text is a string without its quotes and escapes, or a number as written.
	Text string
	// List is the items of a list.
	List []Value
	// Line and Col are where the value begins: its quote, digit or bracket.
	Line, Col int
	// Start and End are its bytes in the file, src[Start:End], with its quotes or
	// brackets. Those of a value put together by += are of its first part.
	Start, End int

	// raw is a string as written between its quotes. It is empty when Text was
	// put together from several places by +=.
	raw string
}

// At is where in the file the byte Text[i] stands.
func (v Value) At(i int) (line, col int) {
	switch {
	case v.Kind == String && v.raw != "":
		return v.Line, v.Col + 1 + sourceOffset(v.raw, i)
	case v.Kind == Number && i < len(v.Text):
		return v.Line, v.Col + i
	}
	return v.Line, v.Col
}

// Int is the value as xl reads a number: decimal, octal after 0, hexadecimal
// after 0x, from a number or a quoted string (a negative one must be quoted).
func (v Value) Int() (int64, error) {
	if v.Kind == List {
		return 0, errors.New("a list is not a number")
	}
	text := strings.TrimLeft(v.Text, isspace)
	// strconv also knows 0b, 0o and underscores, which C's strtol does not.
	digits := strings.TrimLeft(text, "+-")
	if strings.Contains(digits, "_") || len(digits) > 1 && strings.ContainsAny(digits[1:2], "oObB") {
		return 0, fmt.Errorf("%q is not a number", v.Text)
	}
	n, err := strconv.ParseInt(text, 0, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%q does not fit 64 bits", v.Text)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", v.Text)
	}
	return n, nil
}

// Assignment is one statement of a file.
type Assignment struct {
	Key string
	// Line and Col are where Key stands.
	Line, Col int
	// Append is true for +=.
	Append bool
	Value  Value
	// Start and End are its bytes in the file, from the key to the value's end. What
	// ends the statement, and a comment behind it, are not among them.
	Start, End int
}

// File is a parsed configuration.
type File struct {
	// Name is the file's name in messages.
	Name string
	// Assignments are all statements in the order of the file.
	Assignments []Assignment
	// Warnings are what xl reads in another way than the file looks.
	Warnings []Warning

	src *domcfg.Source
	end int // behind it xl reads nothing
}

// message makes a Message about f.
func (f *File) message(line, col int, key, what, why, fix string) Message {
	return f.src.Message(domcfg.Place{Line: line, Col: col}, key, what, why, fix)
}

// Get is the value that key has at the end of the file: the last = wins, and
// each += after it appends a string to a string or a list to a list. A value put
// together so stands where its first part stands; the items of a list keep their
// own positions.
func (f *File) Get(key string) (Value, bool) {
	var parts []Value
	for _, a := range f.Assignments {
		if a.Key != key {
			continue
		}
		if !a.Append {
			parts = parts[:0]
		}
		parts = append(parts, a.Value)
	}
	if len(parts) == 0 {
		return Value{}, false
	}
	v := parts[0]
	if len(parts) == 1 {
		return v, true
	}
	if v.Kind == List {
		var items []Value
		for _, p := range parts {
			items = append(items, p.List...)
		}
		v.List = items
		return v, true
	}
	var text strings.Builder
	for _, p := range parts {
		text.WriteString(p.Text)
	}
	v.Kind, v.Text, v.raw = String, text.String(), ""
	return v, true
}

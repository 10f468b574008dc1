package xlcfg

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/channel/domcfg"
)

// maxErrors bounds a report, of errors and of warnings each: a file that is no configuration at all would give
// one for each line.
const maxErrors = 50

const tooMany = "too many errors"

// Parse reads a configuration. file is its name for messages. All errors are
// reported at once, at most one a line: the error is [Errors] and the *File nil.
func Parse(file string, src []byte) (*File, error) {
	if len(src) > MaxFileSize {
		return nil, domcfg.TooLarge(file, len(src), MaxFileSize)
	}
	f := &File{Name: file, src: domcfg.NewSource(file, string(src))}
	p := &parser{file: f, failed: map[int]bool{}, kinds: map[string]Kind{}}
	p.lex = lexer{src: f.src.Text, line: 1, end: len(src), report: p.report, warn: p.warn}
	p.advance()
	p.statements()
	f.end = p.lex.end
	if nul := strings.IndexByte(f.src.Text, 0); nul >= 0 && len(p.errs) > 1 {
		return nil, Errors{{Message: f.src.Message(f.src.Place(nul), "", "NUL byte", "this is no text file, or text in UTF-16", "check that this is the right file")}}
	}
	if len(p.errs) > 0 {
		slices.SortStableFunc(p.errs, func(a, b *Error) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
		})
		return nil, p.errs
	}
	return f, nil
}

// parser is a recursive-descent parser with one token of lookahead and one more
// on demand. A production that returns false has reported why; the caller then
// leaves it to resync to find a place to go on from.
type parser struct {
	file   *File
	lex    lexer
	tok    token
	ahead  *token
	open   []token // the brackets of the lists we are in
	errs   Errors
	failed map[int]bool    // lines that have an error
	kinds  map[string]Kind // of each key so far, for +=
}

func (p *parser) advance() {
	if p.ahead != nil {
		p.tok, p.ahead = *p.ahead, nil
		return
	}
	p.tok = p.lex.next()
}

func (p *parser) peek() kind {
	if p.ahead == nil {
		t := p.lex.next()
		p.ahead = &t
	}
	return p.ahead.kind
}

func (p *parser) report(line, col int, what, why, fix string) {
	if p.failed[line] || len(p.errs) > maxErrors {
		return
	}
	p.failed[line] = true
	if len(p.errs) == maxErrors {
		what, why, fix = tooMany, "what follows is not reported", "check that this is an xl domain configuration"
	}
	p.errs = append(p.errs, &Error{Message: p.file.message(line, col, "", what, why, fix)})
}

func (p *parser) warn(line, col int, what, why, fix string) {
	if len(p.file.Warnings) < maxErrors {
		p.file.Warnings = append(p.file.Warnings, Warning{Message: p.file.message(line, col, "", what, why, fix)})
	}
}

// failAt reports a syntax error at t, unless the lexer has already reported t.
func (p *parser) failAt(t token, what, why, fix string) {
	if t.kind != tokBad {
		p.report(t.line, t.col, what, why, fix)
	}
}

func (p *parser) statements() {
	for {
		switch p.tok.kind {
		case tokEOF:
			return
		case tokNewline, tokSemicolon:
			p.advance()
		case tokIdent:
			if !p.assignment() {
				p.resync()
			}
		default:
			p.failAt(p.tok, "unexpected "+p.tok.describe(), "a line begins with the name of a parameter", "write NAME = VALUE")
			p.resync()
		}
	}
}

func (p *parser) assignment() bool {
	key := p.tok
	p.advance()
	op := p.tok
	if op.kind != tokEqual && op.kind != tokAppend {
		why, fix := "", fmt.Sprintf("write %s = VALUE", key.text)
		if pythonWords[key.text] {
			why, fix = "this looks like Python, which xl no longer runs", "write the values themselves"
		}
		p.failAt(op, fmt.Sprintf("expected '=' after %q, found %s", key.text, op.describe()), why, fix)
		return false
	}
	p.advance()
	if p.tok.kind == tokNewline {
		p.failAt(p.tok, fmt.Sprintf("%q has no value", key.text), "a value begins on the line of its name", "put it behind the '='")
		return false
	}
	v, ok := p.value(key.text)
	if !ok {
		return false
	}
	if k := p.tok.kind; k != tokNewline && k != tokSemicolon && k != tokEOF {
		p.failAt(p.tok, fmt.Sprintf("expected the end of the line after the value of %q, found %s", key.text, p.tok.describe()), "", "write one assignment a line, or separate them with ';'")
		return false
	}
	p.store(Assignment{Key: key.text, Line: key.line, Col: key.col, Append: op.kind == tokAppend, Value: v, Start: key.start, End: v.End})
	return true
}

// pythonWords begin lines in files from the time when xm ran them as Python.
var pythonWords = map[string]bool{
	"import": true, "from": true, "def": true, "if": true, "elif": true, "else": true, "for": true,
	"while": true, "try": true, "except": true, "print": true, "return": true, "with": true, "class": true,
}

func (p *parser) store(a Assignment) {
	k := a.Value.Kind
	if k == Number { // a string without quotes, to xl
		k = String
	}
	if old, ok := p.kinds[a.Key]; ok && a.Append && old != k {
		p.report(a.Value.Line, a.Value.Col, fmt.Sprintf("cannot append a %s to %q", k, a.Key), fmt.Sprintf("its value is a %s", old), "append what it is, or use '='")
		return
	}
	p.kinds[a.Key] = k
	p.file.Assignments = append(p.file.Assignments, a)
}

func (p *parser) value(key string) (Value, bool) {
	t := p.tok
	switch t.kind {
	case tokString:
		p.advance()
		return Value{Kind: String, Text: t.text, Line: t.line, Col: t.col, Start: t.start, End: t.end, raw: t.raw}, true
	case tokNumber:
		p.advance()
		return Value{Kind: Number, Text: t.text, Line: t.line, Col: t.col, Start: t.start, End: t.end}, true
	case tokOpen:
		return p.list(key)
	case tokIdent:
		p.failAt(t, fmt.Sprintf("expected a value for %q, found %s", key, t.describe()), "text must stand in quotes", fmt.Sprintf("write \"%s\"", t.text))
		return Value{}, false
	}
	p.failAt(t, fmt.Sprintf("expected a value for %q, found %s", key, t.describe()), "", "give a string in quotes, a number or a list in brackets")
	return Value{}, false
}

// list reads from its opening bracket to behind its closing one.
func (p *parser) list(key string) (Value, bool) {
	open := p.tok
	if len(p.open) == MaxDepth {
		p.failAt(open, "list too deep", fmt.Sprintf("lists nest at most %d deep", MaxDepth), "remove brackets")
		return Value{}, false
	}
	p.open = append(p.open, open)
	v := Value{Kind: List, Line: open.line, Col: open.col, Start: open.start}
	p.advance()
	for p.skipNewlines(); p.tok.kind != tokClose; p.skipNewlines() {
		if p.tok.kind == tokComma {
			p.failAt(p.tok, "empty list item", fmt.Sprintf("there is no value before this comma of %q", key), "remove the comma")
			p.advance()
			continue
		}
		if p.unclosed(open, key) {
			return Value{}, false
		}
		item, ok := p.value(key)
		if !ok {
			return Value{}, false
		}
		v.List = append(v.List, item)
		if !p.separator(open, key) {
			return Value{}, false
		}
	}
	v.End = p.tok.end
	p.advance()
	p.open = p.open[:len(p.open)-1]
	return v, true
}

// separator reads what may stand between two items. A missing comma is reported
// and the list read on, since what was meant is clear.
func (p *parser) separator(open token, key string) bool {
	p.skipNewlines()
	switch p.tok.kind {
	case tokComma:
		p.advance()
		return true
	case tokClose:
		return true
	case tokString, tokNumber, tokOpen:
		p.failAt(p.tok, fmt.Sprintf("expected ',' before the next item of %q", key), "items of a list are separated by commas", "add a comma behind the item before")
		return true
	}
	if !p.unclosed(open, key) {
		p.failAt(p.tok, fmt.Sprintf("expected ',' or ']' in the list of %q, found %s", key, p.tok.describe()), "", "separate items with commas and end the list with ']'")
	}
	return false
}

// unclosed reports a list that ends with the file or where the next assignment begins.
func (p *parser) unclosed(open token, key string) bool {
	if p.tok.kind != tokEOF && !p.atAssignment() {
		return false
	}
	p.failAt(open, fmt.Sprintf("the list of %q is not closed", key), fmt.Sprintf("there is no ']' before %s on line %d", p.tok.describe(), p.tok.line), "add ']'")
	return true
}

func (p *parser) atAssignment() bool {
	if p.tok.kind != tokIdent {
		return false
	}
	k := p.peek()
	return k == tokEqual || k == tokAppend
}

func (p *parser) skipNewlines() {
	for p.tok.kind == tokNewline {
		p.advance()
	}
}

// resync goes to the next line from which reading on makes sense: the next one,
// or in a list the one after its end or with the next assignment, so that one
// mistake in a list does not condemn each line of it.
func (p *parser) resync() {
	depth := len(p.open)
	p.open = p.open[:0]
	if depth > 0 && p.atAssignment() {
		return
	}
	for p.tok.kind != tokEOF {
		switch p.tok.kind {
		case tokOpen:
			depth++
		case tokClose:
			depth--
		case tokNewline:
			p.advance()
			if depth <= 0 || p.atAssignment() {
				return
			}
			continue
		}
		p.advance()
	}
}

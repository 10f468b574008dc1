package xlcfg

import (
	"fmt"
	"strings"
)

type kind uint8

const (
	tokEOF kind = iota
	tokNewline
	tokSemicolon
	tokIdent
	tokNumber
	tokString
	tokOpen
	tokClose
	tokComma
	tokEqual
	tokAppend
	tokBad // already reported
)

// token is one word of the file. For a string, text is what it means and raw
// what stands between its quotes.
type token struct {
	kind       kind
	line, col  int
	start, end int // its bytes in src
	text, raw  string
}

// describe names a token in a message.
func (t token) describe() string {
	switch t.kind {
	case tokEOF:
		return "the end of the file"
	case tokNewline:
		return "the end of the line"
	case tokString:
		return "a string"
	case tokNumber:
		return "number " + t.text
	}
	return fmt.Sprintf("%q", t.text)
}

// lexer cuts src into tokens. It hands what it cannot read to report and goes on.
type lexer struct {
	src       string
	off       int
	end       int // behind it xl reads nothing
	line      int
	lineStart int // offset of the first byte of the line
	carriage  bool
	report    func(line, col int, what, why, fix string)
	warn      func(line, col int, what, why, fix string)
}

func (l *lexer) col() int { return l.off - l.lineStart + 1 }

// make returns a token of n bytes from here and steps over it.
func (l *lexer) make(k kind, n int) token {
	t := token{kind: k, line: l.line, col: l.col(), start: l.off, end: l.off + n, text: l.src[l.off : l.off+n]}
	l.off += n
	if k == tokNewline {
		l.line++
		l.lineStart = l.off
	}
	return t
}

func (l *lexer) next() token {
	l.skipBlank()
	if l.off == len(l.src) {
		return l.make(tokEOF, 0)
	}
	c := l.src[l.off]
	if l.off == len(l.src)-1 && !isToken(c) {
		return l.dropped(c)
	}
	switch {
	case c == '\n':
		return l.make(tokNewline, 1)
	case c == '#':
		return l.comment()
	case c == '"' || c == '\'':
		return l.quoted(c)
	case c >= 'a' && c <= 'z':
		return l.make(tokIdent, span(l.src[l.off:], isIdent))
	case c >= '0' && c <= '9':
		return l.make(tokNumber, span(l.src[l.off:], isNumber))
	case strings.HasPrefix(l.src[l.off:], "+="):
		return l.make(tokAppend, 2)
	}
	switch c {
	case ';':
		return l.make(tokSemicolon, 1)
	case '[':
		return l.make(tokOpen, 1)
	case ']':
		return l.make(tokClose, 1)
	case ',':
		return l.make(tokComma, 1)
	case '=':
		return l.make(tokEqual, 1)
	}
	return l.bad(c)
}

// isToken says whether c alone is a token.
func isToken(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("\n;[],=", c) >= 0
}

// dropped is the end of a file whose last byte begins no token. xl's lexer waits
// for a second byte before it complains, and finds the end of the file instead.
func (l *lexer) dropped(c byte) token {
	l.warn(l.line, l.col(), fmt.Sprintf("unexpected %q at the end of the file", c), "xl drops it", "remove it, and end the last line with a newline")
	l.end = l.off
	l.off++
	return l.make(tokEOF, 0)
}

// skipBlank steps over spaces and tabs. A carriage return is an error to xl, but
// a file from Windows has one on each line: one report is enough.
func (l *lexer) skipBlank() {
	for ; l.off < len(l.src); l.off++ {
		switch l.src[l.off] {
		case ' ', '\t':
		case '\r':
			if l.off == len(l.src)-1 {
				return
			}
			if !l.carriage {
				l.carriage = true
				l.report(l.line, l.col(), "carriage return", "the file has the line ends of Windows, which xl does not read", `convert it, for example with: sed -i 's/\r$//' FILE`)
			}
		default:
			return
		}
	}
}

// comment includes its newline, and without one xl does not take it for a comment.
func (l *lexer) comment() token {
	end := strings.IndexByte(l.src[l.off:], '\n')
	if end < 0 {
		l.report(l.line, l.col(), "comment without a newline", "xl reads a comment only with the newline at its end", "end the last line of the file with a newline")
		return l.make(tokBad, len(l.src)-l.off)
	}
	l.off += end
	return l.make(tokNewline, 1)
}

func (l *lexer) quoted(quote byte) token {
	rest := l.src[l.off+1:]
	end := 0
	for ; end < len(rest) && rest[end] != quote && rest[end] != '\n'; end++ {
		if rest[end] == '\\' && end+1 < len(rest) && rest[end+1] != '\n' {
			end++
		}
	}
	if end == len(rest) || rest[end] != quote {
		l.report(l.line, l.col(), "string without an end", "a string must end on the line where it begins", fmt.Sprintf("add the closing %c", quote))
		return l.make(tokBad, 1+end)
	}
	raw := rest[:end]
	text, lost, bad, why := unescape(raw)
	at := l.col() + 1
	if why != "" {
		l.report(l.line, at+bad, "escape in a string", why, `write \\ for a backslash`)
	} else if lost >= 0 {
		l.warn(l.line, at+lost, "escape in a string", `xl reads \ with digits and puts no character there`, `write \\ for a backslash`)
	}
	if nul := strings.IndexByte(raw, 0); nul >= 0 {
		l.report(l.line, at+nul, "NUL byte in a string", "xl crashes on it", "remove it")
	}
	t := l.make(tokString, end+2)
	t.text, t.raw = text, raw
	return t
}

// bad reports what begins no token. Capital words are taken whole, so that one
// message says it all.
func (l *lexer) bad(c byte) token {
	t := token{line: l.line, col: l.col()}
	switch {
	case l.off == 0 && strings.HasPrefix(l.src, "\ufeff"):
		l.report(t.line, t.col, "byte order mark", "the file was saved as \"UTF-8 with BOM\", which xl does not read", "save it as plain UTF-8")
		l.off += len("\ufeff")
		return l.next()
	case c >= 'A' && c <= 'Z' || c == '_':
		word := l.src[l.off : l.off+span(l.src[l.off:], isWord)]
		why, fix := "xl knows no word with a capital letter or a leading _ outside of quotes", "write parameters in lower case and put text in quotes"
		if word == "True" || word == "False" {
			fix = "write 1 for True and 0 for False"
		}
		if l.off > 0 && isNumber(l.src[l.off-1]) {
			why, fix = "a number has no unit, and its hexadecimal digits are in lower case", "write plain digits"
		}
		l.report(t.line, t.col, fmt.Sprintf("unexpected %q", word), why, fix)
		return l.make(tokBad, len(word))
	case strings.IndexByte("+-.():", c) >= 0:
		l.report(t.line, t.col, fmt.Sprintf("unexpected '%c'", c), "xl reads no expressions, negative numbers or Python code", "put text and negative numbers in quotes")
	case c < ' ' || c >= 0x7f:
		l.report(t.line, t.col, fmt.Sprintf("unexpected byte 0x%02x", c), "outside of quotes and comments xl reads plain ASCII only", "remove it, or put the text in quotes")
	default:
		l.report(t.line, t.col, fmt.Sprintf("unexpected '%c'", c), "xl knows no such character", "put text in quotes")
	}
	return l.make(tokBad, 1)
}

func span(s string, in func(byte) bool) int {
	n := 0
	for n < len(s) && in(s[n]) {
		n++
	}
	return n
}

func isIdent(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '_'
}

func isNumber(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c == 'x' }

func isWord(c byte) bool { return isIdent(c) || c >= 'A' && c <= 'Z' }

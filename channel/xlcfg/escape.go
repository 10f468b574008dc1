package xlcfg

import "strings"

// unescape gives the meaning of what stands between two quotes. lost is where an
// escape first gives no character, or -1. When an escape is not valid, why says
// so and bad is where.
func unescape(raw string) (text string, lost, bad int, why string) {
	lost = -1
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		c, has, size, why := character(raw[i:])
		if why != "" {
			return "", -1, i, why
		}
		if has {
			out = append(out, c)
		} else if lost < 0 {
			lost = i
		}
		i += size
	}
	return string(out), lost, 0, ""
}

// sourceOffset is where in raw the byte n of its meaning stands. Beyond the end
// it is the end.
func sourceOffset(raw string, n int) int {
	i := 0
	for i < len(raw) {
		_, has, size, why := character(raw[i:])
		if why != "" || has && n == 0 {
			return i
		}
		if has {
			n--
		}
		i += size
	}
	return i
}

// character reads the first character of s, which is not empty, or its escape of
// size bytes. Two of xl's escapes do not work, in every version from 4.17 on: \x
// always fails, and \ with an octal digit gives no character. It takes what
// strtoul takes of the next three bytes, and wants two of them (libxlu_cfg.c).
func character(s string) (c byte, has bool, size int, why string) {
	if s[0] != '\\' || len(s) < 2 {
		return s[0], true, 1, ""
	}
	switch e := s[1]; e {
	case '"', '\'', '\\':
		return e, true, 2, ""
	case 'a':
		return '\a', true, 2, ""
	case 'b':
		return '\b', true, 2, ""
	case 'f':
		return '\f', true, 2, ""
	case 'n':
		return '\n', true, 2, ""
	case 'r':
		return '\r', true, 2, ""
	case 't':
		return '\t', true, 2, ""
	case 'v':
		return '\v', true, 2, ""
	case 'x':
		return 0, false, 0, `xl fails on every \x`
	case '0', '1', '2', '3', '4', '5', '6', '7':
		if n := strtoul(s[2:min(len(s), 5)]); n >= 2 {
			return 0, false, 2 + n, ""
		}
		return 0, false, 0, `\ with a digit needs three digits`
	}
	return 0, false, 0, `xl knows only \" \' \\ \a \b \f \n \r \t \v`
}

// strtoul is how many bytes of s C's strtoul takes for a decimal number: white
// space and a sign before the digits too.
func strtoul(s string) int {
	n := len(s) - len(strings.TrimLeft(s, isspace))
	if n < len(s) && (s[n] == '+' || s[n] == '-') {
		n++
	}
	digits := span(s[n:], func(c byte) bool { return c >= '0' && c <= '9' })
	if digits == 0 {
		return 0
	}
	return n + digits
}

// isspace is what C's isspace accepts in the "C" locale.
const isspace = " \t\n\v\f\r"

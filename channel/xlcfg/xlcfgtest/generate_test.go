package xlcfgtest

import (
	"math/rand/v2"
	"strings"
)

// generate makes n configurations, always the same for a seed: some that the
// grammar allows and some with a mistake or two. Each is to stand behind head.
func generate(seed uint64, n int) []string {
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	texts := make([]string, n)
	for i := range texts {
		texts[i] = g.text()
		for range max(0, g.IntN(5)-2) {
			texts[i] = g.damage(texts[i])
		}
	}
	return texts
}

type generator struct{ *rand.Rand }

func (g generator) pick(from ...string) string { return from[g.IntN(len(from))] }

func (g generator) text() string {
	var b strings.Builder
	for range 1 + g.IntN(3) {
		b.WriteString(g.pick("", "", "", "\n", "# \"a\" [\n", " ", ";"))
		b.WriteString(g.pick("channel", "channel", "channel", "channel", "channel", "a.b_0"))
		b.WriteString(g.pick("=", " = ", "\t=\t", " = ", "+=", " += "))
		b.WriteString(g.value(2))
		b.WriteString(g.pick("\n", "\n", "\n", ";", " # c\n", " \n\n"))
	}
	if g.IntN(4) == 0 {
		return strings.TrimRight(b.String(), "\n")
	}
	return b.String()
}

// value is mostly a list of channels.
func (g generator) value(depth int) string {
	switch g.IntN(10) {
	case 0:
		return g.str()
	case 1:
		return g.pick("0", "17", "0x1f", "010", "1xfa")
	}
	if depth == 0 {
		return g.str()
	}
	var b strings.Builder
	b.WriteString("[" + g.gap())
	for i := range g.IntN(4) {
		if i > 0 {
			b.WriteString("," + g.gap())
		}
		if g.IntN(12) == 0 {
			b.WriteString(g.value(depth - 1))
		} else {
			b.WriteString(g.str())
		}
		b.WriteString(g.gap())
	}
	return b.String() + g.pick("]", "]", "]", ",]", ", \n]")
}

func (g generator) gap() string {
	return g.pick("", "", " ", " ", "\t", "\n", "\n\n", " # \"x\", ]\n")
}

// str is a string that is mostly a channel, in quotes.
func (g generator) str() string {
	quote := g.pick("'", "\"")
	var pieces []string
	add := func(keys []string, values ...string) {
		pieces = append(pieces, g.space()+g.pick(keys...)+g.space()+g.pick("=", "=", "=", "=", "=", "=", "=", "=", "=", "=", "=", "=", "=", "=", "==", "")+g.space()+g.pick(values...)+g.space())
	}
	if g.IntN(10) > 0 {
		add([]string{"connection"}, "pty", "socket", "pty", "socket", "pty", "socket", "pty", "socket", "PTY", " ")
	}
	if g.IntN(10) > 0 {
		add([]string{"name"}, "a", "b", "org.example.agent.0", "a b", "a=b", `\\`, `\"`, `\'x`, `a\tb`, `\101`, "é", " ")
	}
	if g.IntN(10) > 2 {
		add([]string{"path"}, "/run/a", "/run/b", "/run/a=b", "run/c", `/run/\x41`, `/run/\12x`, " ")
	}
	if g.IntN(10) > 7 {
		add([]string{"backend", "mode", "colour", "Name", ""}, "0", "driver", "0660", "x=y")
	}
	g.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
	return quote + g.pick("", "", "", "", ",") + strings.Join(pieces, g.pick(",", ",", ",", ",", ",,")) + g.pick("", "", "", "", ",") + quote
}

func (g generator) space() string { return g.pick("", "", "", "", "", "", " ", "  ", `\t`, `\n`) }

// damage removes, doubles or puts in one piece.
func (g generator) damage(s string) string {
	if s == "" {
		return s
	}
	at := g.IntN(len(s))
	end := min(len(s), at+1+g.IntN(3))
	switch g.IntN(8) {
	case 0, 1:
		return s[:at] + s[end:]
	case 2, 3:
		return s[:end] + s[at:]
	case 4:
		return s[:at]
	}
	return s[:at] + g.pick("\"", "'", "[", "]", ",", "=", "\\", "\n", "#", ";", "\r", "+", "-", "A", "1", "a", "é", "\x00", "\xff", "\f", " ", "\\0 1") + s[at:]
}

package domxml

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/channel"
)

// layout is how elements are set out. The zero value puts all on one line.
type layout struct {
	newline string // behind each
	indent  string // before each
	step    string // what its children have more
}

func (l layout) deeper() layout { return layout{l.newline, l.indent + l.step, l.step} }

// line is one element, or one tag, on a line of its own.
func (l layout) line(format string, args ...any) string {
	return l.indent + fmt.Sprintf(format, args...) + l.newline
}

// Format is specs as <channel> elements, which belong into <devices>. When libvirt
// has no place there for all of it, a <metadata> element goes before them, which
// belongs into <domain>.
func Format(specs []channel.Spec) string {
	l := layout{newline: "\n", step: "  "}
	var b strings.Builder
	if own := formatOwn(specs, l.deeper()); own != "" {
		b.WriteString(l.line("<metadata>") + own + l.line("</metadata>"))
	}
	for _, s := range specs {
		b.WriteString(formatChannel(s, l))
	}
	return b.String()
}

func formatChannel(s channel.Spec, l layout) string {
	kind, source, in := "pty", "", l.deeper()
	if s.Connection == channel.Socket {
		kind = "unix"
		if s.Path != "" {
			source = in.line("<source mode='bind' path='%s'/>", escape(s.Path))
		}
	}
	return l.line("<channel type='%s'>", kind) + source +
		in.line("<target type='xen' name='%s'/>", escape(s.Name)) + l.line("</channel>")
}

// formatOwn is our element of <metadata>, or "" when there is nothing for it.
func formatOwn(specs []channel.Spec, l layout) string {
	var b strings.Builder
	in := l.deeper()
	for _, s := range specs {
		if attrs := ownAttrs(s); attrs != "" {
			b.WriteString(in.line("<xenchan:channel name='%s'%s/>", escape(s.Name), attrs))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return l.line("<xenchan:channels xmlns:xenchan='%s'>", namespace) + b.String() + l.line("</xenchan:channels>")
}

// ownAttrs is what libvirt's <channel> has no place for.
func ownAttrs(s channel.Spec) string {
	var b strings.Builder
	if s.Connection == channel.Socket && s.Path == "" {
		b.WriteString(" path=''")
	}
	for _, f := range channel.Fields(s.String()) {
		if slices.Contains(ownKeys, f.Key) {
			fmt.Fprintf(&b, " %s='%s'", f.Key, escape(f.Value))
		}
	}
	return b.String()
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder does not fail
	return b.String()
}

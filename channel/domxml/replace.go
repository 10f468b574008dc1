package domxml

import (
	"strings"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
)

// Replace is the text of f with specs in place of the channels that [Stock]
// gives. Every other byte stays, and so does the element of a channel that stays
// as it is. The error is that of [Stock], or says that f is a fragment.
func Replace(f *File, specs []channel.Spec) (string, error) {
	if f.domain == nil {
		return "", f.fail(f.root, "no <domain> to put channels into", "", "give the whole of it: `virsh dumpxml --inactive DOMAIN`")
	}
	r := read(f)
	if _, err := r.Stock(); err != nil {
		return "", err
	}
	e := &editor{file: f, text: f.src.Text, elements: r.elements}
	for _, l := range r.specs {
		e.had = append(e.had, l.Spec)
	}
	e.channels(specs)
	e.metadata(specs)
	return f.src.Apply(e.edits), nil
}

// editor gathers the edits of one file.
type editor struct {
	file     *File
	text     string
	had      []channel.Spec // the channels that there are
	elements []*node        // of each
	edits    []domcfg.Edit
}

func (e *editor) replace(start, end int, text string) {
	e.edits = append(e.edits, domcfg.Edit{Start: start, End: end, Text: text})
}

// remove takes an element away, and the line that it leaves empty.
func (e *editor) remove(n *node) {
	start, end := e.file.src.WholeLines(n.start, n.end)
	e.replace(start, end, "")
}

// channels puts the new channels where the old ones are, one for one. What is left
// over of the old goes away, and what is left over of the new goes behind them.
func (e *editor) channels(specs []channel.Spec) {
	both := min(len(specs), len(e.elements))
	for i, n := range e.elements[:both] {
		e.replace(n.start, n.end, strings.Trim(e.channel(specs[i], e.layout(n)), blanks))
	}
	for _, n := range e.elements[both:] {
		e.remove(n)
	}
	more := func(l layout) string {
		var b strings.Builder
		for _, s := range specs[both:] {
			b.WriteString(e.channel(s, l))
		}
		return b.String()
	}
	switch {
	case both == len(specs):
	case both > 0:
		e.behind(e.elements[both-1], more)
	default:
		e.into("devices", more)
	}
}

// channel is the element of s: the bytes that there are, if it is one for Xen.
func (e *editor) channel(s channel.Spec, l layout) string {
	for i, n := range e.elements {
		if kind, _ := n.child("target").attr("type"); e.had[i] == s && kind == "xen" {
			return l.indent + e.text[n.start:n.end] + l.newline
		}
	}
	return formatChannel(s, l)
}

// metadata puts what libvirt has no place for into <metadata>.
func (e *editor) metadata(specs []channel.Spec) {
	n := e.file.metadata()
	switch {
	case formatOwn(specs, layout{}) == formatOwn(e.had, layout{}):
	case formatOwn(specs, layout{}) == "":
		e.remove(n)
	case n != nil:
		e.replace(n.start, n.end, strings.Trim(formatOwn(specs, e.layout(n)), blanks))
	default:
		e.into("metadata", func(l layout) string { return formatOwn(specs, l) })
	}
}

// layout is that of an element of the file: on lines of its own, or among others.
func (e *editor) layout(n *node) layout {
	before := e.text[n.parent.inner:n.start]
	newline := strings.LastIndexByte(before, '\n')
	indent := before[newline+1:]
	if newline < 0 || strings.Trim(indent, " \t") != "" {
		return layout{}
	}
	l := layout{newline: "\n", indent: indent, step: "  "}
	if strings.HasSuffix(before[:newline], "\r") {
		l.newline = "\r\n"
	}
	if strings.HasPrefix(indent, "\t") {
		l.step = "\t"
	}
	return l
}

// behind inserts siblings after n.
func (e *editor) behind(n *node, text func(layout) string) {
	l := e.layout(n)
	if _, end := e.file.src.WholeLines(n.start, n.end); end > n.end {
		e.replace(end, end, text(l))
		return
	}
	e.replace(n.end, n.end, l.newline+strings.TrimRight(text(l), blanks))
}

// into inserts elements at the end of a child of <domain>, which it makes if need be.
func (e *editor) into(child string, text func(layout) string) {
	if n := e.file.domain.child(child); n != nil {
		e.inside(n, text)
		return
	}
	e.inside(e.file.domain, func(l layout) string {
		return l.line("<%s>", child) + text(l.deeper()) + l.line("</%s>", child)
	})
}

// inside inserts elements before the end tag of n.
func (e *editor) inside(n *node, text func(layout) string) {
	l := e.layout(n)
	if len(n.children) > 0 {
		l = e.layout(n.children[0])
	} else {
		l = l.deeper()
	}
	if n.inner == n.end { // <n/>
		tag := strings.TrimRight(strings.TrimSuffix(e.text[n.start:n.end], "/>"), blanks)
		e.replace(n.start, n.end, tag+">"+l.newline+text(l)+strings.TrimSuffix(l.indent, l.step)+"</"+n.name.Local+">")
		return
	}
	before := e.text[n.inner:n.innerEnd]
	at := n.inner + len(strings.TrimRight(before, " \t"))
	if l.newline == "" || !strings.HasSuffix(e.text[:at], "\n") {
		e.replace(n.innerEnd, n.innerEnd, text(layout{}))
		return
	}
	e.replace(at, at, text(l))
}

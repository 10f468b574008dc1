package domxml

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/xenchan/xenchan/channel/domcfg"
)

// blanks are the white space of XML.
const blanks = " \t\r\n"

// node is one element and the bytes it stands in: src[start:end], and between its
// tags src[inner:innerEnd]. An element like <a/> has inner == innerEnd == end.
type node struct {
	name                        xml.Name
	attrs                       []xml.Attr
	parent                      *node
	children                    []*node
	text                        []byte // its own, without that of its children
	start, inner, innerEnd, end int
}

// all are the children of that name without a namespace.
func (n *node) all(name string) []*node { return n.allIn("", name) }

func (n *node) allIn(space, name string) []*node {
	var found []*node
	for _, c := range n.children {
		if c.name == (xml.Name{Space: space, Local: name}) {
			found = append(found, c)
		}
	}
	return found
}

// child is the first child of that name without a namespace, or nil.
func (n *node) child(name string) *node {
	if found := n.all(name); len(found) > 0 {
		return found[0]
	}
	return nil
}

func (n *node) attr(name string) (string, bool) {
	for _, a := range n.attrs {
		if a.Name == (xml.Name{Local: name}) {
			return a.Value, true
		}
	}
	return "", false
}

// attrOffset is where in src the value of an attribute begins, or the element if
// there is no such attribute. The decoder has accepted the tag, so that it is
// NAME="VALUE" with blanks between.
func (n *node) attrOffset(src, name string) int {
	at := n.start + strings.IndexAny(src[n.start:n.inner], blanks+"/>")
	for {
		rest := strings.TrimLeft(src[at:n.inner], blanks)
		quote := strings.IndexAny(rest, `'"`)
		if quote < 0 {
			return n.start
		}
		key, _, _ := strings.Cut(rest[:quote], "=")
		value := n.inner - len(rest) + quote + 1
		if strings.TrimRight(key, blanks) == name {
			return value
		}
		at = value + strings.IndexByte(src[value:n.inner], rest[quote]) + 1
	}
}

// parser builds the tree of a file, and refuses what is too large, too deep or
// not plain XML in UTF-8.
type parser struct {
	src     *domcfg.Source
	root    *node // holds what stands at the top of the file
	open    *node
	depth   int
	count   int
	charset string // the one that was refused
}

func (p *parser) fail(offset int, what, why, fix string) error {
	return domcfg.Errors{{Message: p.src.Message(p.src.Place(offset), "", what, why, fix)}}
}

// parseTree reads the elements of a file below a root of its own.
func parseTree(src *domcfg.Source) (*node, error) {
	p := &parser{src: src, root: &node{end: len(src.Text), innerEnd: len(src.Text)}}
	p.open = p.root
	if err := p.checkUTF8(); err != nil {
		return nil, err
	}
	const mark = "\ufeff" // Windows begins UTF-8 with it
	text := strings.TrimPrefix(src.Text, mark)
	skipped := len(src.Text) - len(text)
	d := xml.NewDecoder(strings.NewReader(text))
	d.CharsetReader = func(charset string, input io.Reader) (io.Reader, error) {
		if strings.EqualFold(charset, "us-ascii") {
			return input, nil
		}
		p.charset = charset
		return nil, errors.New("not UTF-8")
	}
	for {
		start := skipped + int(d.InputOffset())
		token, err := d.Token()
		end := skipped + int(d.InputOffset())
		if errors.Is(err, io.EOF) {
			return p.root, nil
		}
		if err != nil {
			return nil, p.explain(start, end, err)
		}
		if err := p.take(token, start, end); err != nil {
			return nil, err
		}
	}
}

func (p *parser) checkUTF8() error {
	text := p.src.Text
	if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
		return p.fail(0, "the file is in UTF-16", "only UTF-8 is read", "`iconv -f UTF-16 -t UTF-8` makes it so")
	}
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && size == 1 {
			return p.fail(i, fmt.Sprintf("byte %#02x is not UTF-8", text[i]), "only UTF-8 is read", "`iconv -f ENCODING -t UTF-8` makes it so")
		}
		i += size
	}
	return nil
}

// explain says where the decoder stopped and why.
func (p *parser) explain(start, end int, err error) error {
	if p.charset != "" {
		return p.fail(start, fmt.Sprintf("the encoding is %q", p.charset), "only UTF-8 is read", fmt.Sprintf("`iconv -f %s -t UTF-8` makes it so; then remove encoding=", p.charset))
	}
	what := err.Error()
	if bad, ok := errors.AsType[*xml.SyntaxError](err); ok {
		what = bad.Msg
	}
	if what == "unexpected EOF" && p.open != p.root {
		at := p.src.Place(p.open.start)
		return p.fail(end, "the file ends too early", fmt.Sprintf("<%s> of line %d is not closed", p.open.name.Local, at.Line), "check that the file is whole")
	}
	return p.fail(end, "not well-formed XML: "+what, "", "`xmllint --noout FILE` says more")
}

// textDepth is where <name> and <uuid> are; the text of others is nobody's business.
const textDepth = 2

func (p *parser) take(token xml.Token, start, end int) error {
	switch t := token.(type) {
	case xml.StartElement:
		return p.enter(t, start, end)
	case xml.EndElement:
		p.open.innerEnd, p.open.end = start, end
		p.open, p.depth = p.open.parent, p.depth-1
	case xml.CharData:
		if rest := strings.TrimLeft(p.src.Text[start:end], blanks); p.open == p.root && rest != "" {
			return p.fail(end-len(rest), "text outside of all elements", "that is not well-formed XML", "remove it")
		}
		if p.depth == textDepth {
			p.open.text = append(p.open.text, t...)
		}
	case xml.Directive:
		return p.fail(start, "the file has a DTD", "it could make the file mean something else than it shows, and libvirt's have none", "remove <!DOCTYPE …>")
	}
	return nil
}

func (p *parser) enter(t xml.StartElement, start, end int) error {
	if p.count++; p.count > maxElements {
		return p.fail(start, "too many elements", fmt.Sprintf("at most %d are read", maxElements), "check that this is the right file")
	}
	if p.depth++; p.depth > maxDepth {
		return p.fail(start, fmt.Sprintf("elements nested more than %d deep", maxDepth), "libvirt reads no more either", "check that this is the right file")
	}
	n := &node{name: t.Name, attrs: t.Copy().Attr, parent: p.open, start: start, inner: end}
	seen := make(map[xml.Name]bool, len(n.attrs))
	for _, a := range n.attrs {
		if seen[a.Name] {
			return p.fail(start, fmt.Sprintf("<%s> has the attribute %q twice", t.Name.Local, a.Name.Local), "that is not well-formed XML", "keep one")
		}
		seen[a.Name] = true
	}
	p.open.children = append(p.open.children, n)
	p.open = n
	return nil
}

// Package domxml reads and changes the channels in libvirt's XML of a domain:
//
//	<channel type='unix'>
//	  <source mode='bind' path='/run/a.sock'/>
//	  <target type='xen' name='org.example.a.0'/>
//	</channel>
//
// It reads what libvirt's Xen driver makes of them, and refuses what that refuses,
// but it says where, why and what to do. What a channel of ours has beyond that
// stands in the domain's <metadata>, which libvirt keeps for whoever needs it:
//
//	<xenchan:channels xmlns:xenchan='https://github.com/xenchan/xenchan'>
//	  <xenchan:channel name='org.example.a.0' mode='0660' spool='4MiB'/>
//	</xenchan:channels>
//
// A change replaces the bytes of channels and leaves every other byte alone.
package domxml

import (
	"fmt"
	"strings"

	"github.com/xenchan/xenchan/channel/domcfg"
)

const (
	// MaxFileSize is the largest file that Parse reads, in bytes.
	MaxFileSize = 1 << 20
	// maxDepth is libxml2's limit, and so libvirt's.
	maxDepth = 256
	// maxElements bounds the memory that a file of a megabyte can take.
	maxElements = 50_000
)

// namespace is that of our metadata. libvirt keeps one element of each namespace.
const namespace = "https://github.com/xenchan/xenchan"

// File is a parsed file.
type File struct {
	src  *domcfg.Source
	root *node
	// domain is nil for a fragment: channels alone, as `virsh attach-device` reads one.
	domain *node
}

// Parse reads the XML of one domain, or channels without a domain around them.
// file is its name for messages. The error is [domcfg.Errors].
func Parse(file string, src []byte) (*File, error) {
	if len(src) > MaxFileSize {
		return nil, domcfg.TooLarge(file, len(src), MaxFileSize)
	}
	f := &File{src: domcfg.NewSource(file, string(src))}
	var err error
	if f.root, err = parseTree(f.src); err != nil {
		return nil, err
	}
	if len(f.root.children) == 0 {
		return nil, f.fail(f.root, "the file has no element", "", "give a <domain>")
	}
	for i, n := range f.root.children {
		fragment := n.name.Space == "" && (n.name.Local == "channel" || n.name.Local == "metadata")
		domain := n.name.Space == "" && n.name.Local == "domain"
		switch {
		case !domain && !fragment:
			return nil, f.notDomain(n)
		case i > 0 && (domain || f.domain != nil):
			return nil, f.fail(n, "something behind the first <"+f.root.children[0].name.Local+">", "a file is the definition of one domain", "split it")
		case domain:
			f.domain = n
		}
	}
	return f, nil
}

func (f *File) fail(n *node, what, why, fix string) error {
	return domcfg.Errors{{Message: f.src.Message(f.src.Place(n.start), "", what, why, fix)}}
}

func (f *File) notDomain(n *node) error {
	fix := "`virsh dumpxml --inactive DOMAIN` prints a domain's"
	if d := n.child("domain"); d != nil && len(d.children) > 0 {
		fix = "take one <domain> out of it; " + fix
	}
	return f.fail(n, fmt.Sprintf("<%s> is not a <domain>", n.name.Local), "only a domain has channels", fix)
}

// DomainName is what <name> says, or "" for a fragment. The error is [domcfg.Errors].
func (f *File) DomainName() (string, error) {
	if f.domain == nil {
		return "", nil
	}
	n := f.domain.child("name")
	if n == nil {
		return "", f.fail(f.domain, "the domain has no name", "libvirt requires one", "add <name>NAME</name>")
	}
	name := string(n.text)
	if name == "" || strings.ContainsAny(name, "/\n") {
		return "", f.fail(n, fmt.Sprintf("%q cannot be a domain's name", name), "libvirt refuses an empty one and one with a '/' or a new line", "change it")
	}
	return name, nil
}

// DomainUUID is what <uuid> says in lower case, or "". The error is [domcfg.Errors].
func (f *File) DomainUUID() (string, error) {
	if f.domain == nil {
		return "", nil
	}
	n := f.domain.child("uuid")
	if n == nil {
		return "", nil
	}
	uuid := strings.ToLower(strings.Trim(string(n.text), blanks))
	if !domcfg.IsUUID(uuid) {
		return "", f.fail(n, fmt.Sprintf("%q is not a uuid", uuid), "it has groups of 8, 4, 4, 4 and 12 hexadecimal digits", "make one with uuidgen, or leave <uuid> away")
	}
	return uuid, nil
}

// kind is the type of the domain; libvirt gives one of type xen to its Xen driver.
func (f *File) kind() string {
	if f.domain == nil {
		return ""
	}
	kind, _ := f.domain.attr("type")
	return kind
}

// elements are the <channel> elements, whatever they are for.
func (f *File) elements() []*node {
	if f.domain == nil {
		return f.root.all("channel")
	}
	var found []*node
	for _, devices := range f.domain.all("devices") {
		found = append(found, devices.all("channel")...)
	}
	return found
}

// metadata is our element in <metadata>, or nil.
func (f *File) metadata() *node {
	top := f.root
	if f.domain != nil {
		top = f.domain
	}
	for _, m := range top.all("metadata") {
		for _, n := range m.allIn(namespace, "channels") {
			return n
		}
	}
	return nil
}

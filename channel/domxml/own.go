package domxml

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/channel"
)

// ownKeys are the keys of a Spec that libvirt's <channel> has no place for.
var ownKeys = slices.DeleteFunc(channel.Keys(), func(key string) bool {
	return key == "name" || key == "connection" || key == "path"
})

// readOwn reads which channels our metadata speaks of.
func (r *reader) readOwn() {
	r.own = map[string]*node{}
	m := r.file.metadata()
	if m == nil {
		return
	}
	for _, n := range m.children {
		name, _ := n.attr("name")
		switch {
		case n.name != (xml.Name{Space: namespace, Local: "channel"}):
			r.warn(n, "", fmt.Sprintf("<%s> is ignored", n.name.Local), "only <channel> is known here", "remove it")
		case name == "":
			r.fail(n, "name", "no name", "it says which channel this is about", "add name='NAME'")
		case r.own[name] != nil:
			r.fail(n, "name", fmt.Sprintf("%q for the second time", name), "", "put all into one element")
		default:
			r.own[name] = n
		}
	}
}

// leftOver says which of our metadata is about no channel.
func (r *reader) leftOver() {
	if len(r.own) == 0 {
		return
	}
	for _, n := range r.file.metadata().children {
		if name, _ := n.attr("name"); r.own[name] == n {
			r.warn(n, "name", fmt.Sprintf("there is no channel %q", name), "what is said of it here is ignored", "correct the name, or remove it")
		}
	}
}

// setOwn sets what our metadata says of a channel.
func (r *reader) setOwn(spec *channel.Spec, n *node) {
	for _, a := range n.attrs {
		key := a.Name.Local
		switch {
		case a.Name.Space != "", key == "xmlns", key == "name":
		case slices.Contains(ownKeys, key):
			r.set(spec, key, a.Value, n)
		case key == "path" && a.Value == "":
		default:
			r.warn(n, key, fmt.Sprintf("unknown attribute %q", key), "it is ignored", "known are "+strings.Join(ownKeys, ", "))
		}
	}
}

// wantsOurPath says that a socket without a path is to be where xenchan puts it,
// not where libvirt would: path=”.
func wantsOurPath(own *node) bool {
	path, ok := own.attr("path")
	return ok && path == ""
}

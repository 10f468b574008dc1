package domxml

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
)

// sourceTypes are what libvirt knows as the host end of a character device; its
// Xen driver knows the first two.
var sourceTypes = []string{
	"pty", "unix", "null", "vc", "dev", "file", "pipe", "stdio", "udp", "tcp",
	"spicevmc", "spiceport", "nmdm", "qemu-vdagent", "dbus",
}

// targetTypes are the guest ends that libvirt knows.
var targetTypes = []string{"xen", "virtio", "guestfwd"}

const (
	// channelDir is where libvirt's Xen driver puts a socket that has no path
	// (libxl_conf.h, LIBXL_CHANNEL_DIR).
	channelDir = "/var/lib/libvirt/libxl/channel/target/"
	// qemuDirs is where its QEMU driver does.
	qemuDirs = "/var/lib/libvirt/qemu/ /run/libvirt/qemu/"
)

// Stock gives the channels that libvirt's Xen driver would make of f, with ours
// added: our metadata is read.
//
// In a domain of another type, or without one, channels of KVM (target virtio)
// are read as if they were Xen's, and left out where Xen has nothing like them;
// warnings say so. A socket without a path gets the one that libvirt would choose,
// /var/lib/libvirt/libxl/channel/target/DOMAIN-NAME.
//
// Errors are what libvirt refuses; they are [domcfg.Errors], and specs is then nil.
// What xenchan cannot serve is a warning: a Spec need not be valid.
func Stock(f *File) (specs []domcfg.Located, warnings []domcfg.Warning, err error) {
	r := read(f)
	if _, err := f.DomainUUID(); err != nil {
		r.Refused = append(r.Refused, errorsOf(err)...)
	}
	if warnings, err = r.Stock(); err != nil {
		return nil, warnings, err
	}
	return r.specs, warnings, nil
}

func errorsOf(err error) domcfg.Errors {
	list, _ := errors.AsType[domcfg.Errors](err)
	return list
}

// Channels is [Stock] for those who serve the channels: what xenchan cannot serve
// is an error as well, and each Spec is valid. It does not look at the uuid.
func Channels(f *File) (specs []domcfg.Located, warnings []domcfg.Warning, err error) {
	r := read(f)
	if warnings, err = r.Served(); err != nil {
		return nil, warnings, err
	}
	return r.specs, warnings, nil
}

// reader gathers the channels of one file.
type reader struct {
	domcfg.Report
	file     *File
	domain   string           // its name, or "" in a fragment
	own      map[string]*node // our metadata of each channel that was not met yet
	specs    []domcfg.Located
	elements []*node // of each
}

func read(f *File) *reader {
	r := &reader{file: f, Report: domcfg.Report{Source: f.src}}
	var err error
	if r.domain, err = f.DomainName(); err != nil { // it is part of paths
		r.Refused = append(r.Refused, errorsOf(err)...)
	}
	r.readOwn()
	for _, n := range f.elements() {
		r.channel(n)
	}
	if kind := f.kind(); f.domain != nil && kind != "xen" && len(r.elements) > 0 {
		r.warn(f.domain, "type", fmt.Sprintf("a domain of type %q", kind), "only its channels are looked at, as if it were one of Xen", "")
	}
	r.leftOver()
	r.Together(r.specs)
	return r
}

// at is the place of an attribute of n, or of n.
func (r *reader) at(n *node, attr string) domcfg.Place {
	if attr == "" {
		return r.Place(n.start)
	}
	return r.Place(n.attrOffset(r.Text, attr))
}

func (r *reader) fail(n *node, attr, what, why, fix string) {
	r.Fail(r.at(n, attr), attr, what, why, fix)
}

func (r *reader) warn(n *node, attr, what, why, fix string) {
	r.Warn(r.at(n, attr), attr, what, why, fix)
}

// set sets a key of spec from the attribute of that name. libvirt takes any text.
func (r *reader) set(spec *channel.Spec, key, value string, n *node) {
	switch key {
	case "name":
		spec.Name = value
	case "path":
		spec.Path = value
	}
	if value == "" {
		r.Unserve(r.at(n, key), key, "the "+key+" is empty", "", "give one, or leave it away")
		return
	}
	if bad, ok := errors.AsType[*channel.SpecError](spec.Set(key, value)); ok {
		r.Unserve(r.at(n, key), key, bad.Msg, "", bad.Hint)
	}
}

// channel reads one element, which may be none for Xen.
func (r *reader) channel(n *node) {
	at := r.Place(n.start)
	l := domcfg.Located{File: r.Name, Line: at.Line, Col: at.Col, NameAt: at, PathAt: at}
	target, ok := r.target(n)
	if !ok {
		return
	}
	if l.Connection, ok = r.connection(n, target); !ok {
		return
	}
	if log := n.child("log"); log != nil {
		r.warn(log, "", "the log is left out", "libvirt's Xen driver writes none", "")
	}
	faults := r.Failed()
	if name, ok := target.attr("name"); ok {
		l.NameAt = r.at(target, "name")
		r.set(&l.Spec, "name", name, target)
	} else {
		r.fail(target, "name", "the channel has no name", "libvirt's Xen driver refuses it, and nobody could find it", "add name='NAME' to <target>, for example name='org.example.agent.0'")
	}
	own := r.own[l.Name]
	delete(r.own, l.Name)
	if l.Connection == channel.Socket {
		r.source(&l, n, own)
	}
	if own != nil {
		r.setOwn(&l.Spec, own)
	}
	if r.Failed() == faults { // a key that failed is not set, which would mislead
		for _, w := range l.Warnings() {
			if w.Key != "path" { // which concerns xl alone
				r.warn(n, "", w.Msg, "", w.Hint)
			}
		}
	}
	r.specs, r.elements = append(r.specs, l), append(r.elements, n)
}

// target is the guest's end, if that can be one of Xen's.
func (r *reader) target(n *node) (*node, bool) {
	targets := n.all("target")
	if len(targets) == 0 {
		r.fail(n, "", "the channel has no <target>", "libvirt refuses the domain", "add <target type='xen' name='NAME'/>")
		return nil, false
	}
	if len(targets) > 1 {
		r.warn(targets[1], "", "a second <target>", "libvirt ignores it", "remove one")
	}
	t := targets[0]
	kind, _ := t.attr("type")
	switch {
	case kind == "xen":
		return t, true
	case !slices.Contains(targetTypes, kind):
		r.fail(t, "type", fmt.Sprintf("unknown target type %q", kind), "libvirt refuses the domain", didYouMean(kind, targetTypes, "type='xen'"))
	case r.file.kind() == "xen":
		r.fail(t, "type", fmt.Sprintf("target type %q is not supported", kind), "libvirt's Xen driver has channels of type 'xen' alone", "write type='xen'")
	case kind == "virtio":
		return t, true
	default:
		r.warn(t, "type", fmt.Sprintf("a channel of type %q is left out", kind), "Xen has nothing like it", "")
	}
	return nil, false
}

func didYouMean(word string, known []string, otherwise string) string {
	if near := channel.Nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean type='%s'?", near)
	}
	return "write " + otherwise
}

// connection is the host's end, if that can be one of Xen's.
func (r *reader) connection(n, target *node) (channel.Connection, bool) {
	guest, _ := target.attr("type")
	kind, ok := n.attr("type")
	if !ok {
		r.warn(n, "", "the channel has no type", "libvirt takes it for a pty", "write type='pty' or type='unix'")
		kind = "pty"
	}
	switch {
	case kind == "pty" || kind == "unix":
		if guest == "virtio" {
			r.warn(target, "type", "the target of type 'virtio' becomes one of type 'xen'", "Xen has no virtio channels: the guest has /dev/xen-channel/NAME in place of /dev/virtio-ports/NAME", "")
		}
		if kind == "unix" {
			return channel.Socket, true
		}
		return channel.PTY, true
	case !slices.Contains(sourceTypes, kind):
		r.fail(n, "type", fmt.Sprintf("unknown channel type %q", kind), "libvirt refuses the domain", didYouMean(kind, sourceTypes, "type='unix' or type='pty'"))
	case guest == "virtio":
		r.warn(n, "type", fmt.Sprintf("a channel of type %q is left out", kind), "on Xen a channel is a socket (type 'unix') or a terminal (type 'pty')", "")
	default:
		r.fail(n, "type", fmt.Sprintf("source type %q is not supported", kind), "libvirt's Xen driver has sockets and terminals alone", "write type='unix' or type='pty'")
	}
	return "", false
}

// source sets the path of a socket.
func (r *reader) source(l *domcfg.Located, n, own *node) {
	sources := n.all("source")
	if len(sources) > 1 {
		r.fail(sources[1], "", "a second <source>", "libvirt refuses the domain", "keep one")
	}
	if len(sources) > 0 {
		s := sources[0]
		r.mode(s)
		path, ok := s.attr("path")
		if ok && !isQEMUs(path) {
			l.PathAt = r.at(s, "path")
			r.set(&l.Spec, "path", path, s)
			return
		}
		if ok {
			r.warn(s, "path", "the path is left out", "libvirt chose it for QEMU, in a directory of QEMU's", "")
		}
	}
	switch {
	case own != nil && wantsOurPath(own):
	case r.file.domain == nil:
		r.warn(n, "", "a socket without path", "libvirt chooses one by the domain's name, which is not known here; xenchan puts it at /run/xenchan/DOMAIN/NAME.sock", "add path='PATH' to <source>")
	case l.Name != "" && r.domain != "":
		r.automatic(l)
	}
}

// mode checks who connects to whom.
func (r *reader) mode(source *node) {
	switch mode, _ := source.attr("mode"); mode {
	case "", "bind":
	case "connect":
		r.warn(source, "mode", "mode 'connect' becomes 'bind'", "on Xen the host's end always listens", "let the program connect to it")
	default:
		r.fail(source, "mode", fmt.Sprintf("unknown mode %q", mode), "libvirt refuses the domain", "write mode='bind'")
	}
}

func isQEMUs(path string) bool {
	return slices.ContainsFunc(strings.Fields(qemuDirs), func(dir string) bool { return strings.HasPrefix(path, dir) })
}

// automatic sets the path that libvirt's Xen driver would choose.
func (r *reader) automatic(l *domcfg.Located) {
	const fix = "add path='PATH' to <source> to have it elsewhere"
	l.Path = channelDir + r.domain + "-" + l.Name
	if bad, ok := errors.AsType[*channel.SpecError](l.Set("path", l.Path)); ok {
		r.Unserve(l.PathAt, "path", "libvirt chooses the path "+l.Path+": "+bad.Msg, "", fix)
		return
	}
	r.Note(l.PathAt, "path", "a socket without path is at "+l.Path, "that is where libvirt puts it", fix)
}

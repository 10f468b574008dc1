// Package convert reads the channels of a domain in every form that people keep
// them in, and writes them in each: xl.cfg, libvirt's XML, and the JSON in which
// libxl writes a domain's configuration.
package convert

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
	"github.com/xenchan/xenchan/channel/domxml"
	"github.com/xenchan/xenchan/channel/xlcfg"
)

// Form is a form of a domain's configuration.
type Form string

// The forms, by the words of the command line.
const (
	XL      Form = "xl"
	Libvirt Form = "libvirt"
	JSON    Form = "json"
)

// Forms lists them.
func Forms() []Form { return []Form{XL, Libvirt, JSON} }

// FormOf tells the form by the first byte that is not blank: an xl.cfg cannot begin
// with a '<', a '{' or a '['.
func FormOf(src []byte) Form {
	for _, utf16 := range []string{"\xff\xfe<\x00", "\xfe\xff\x00<"} {
		if bytes.HasPrefix(src, []byte(utf16)) {
			return Libvirt // which says what to do about it
		}
	}
	switch text := bytes.TrimLeft(bytes.TrimPrefix(src, []byte("\ufeff")), " \t\r\n"); {
	case bytes.HasPrefix(text, []byte("<")):
		return Libvirt
	case bytes.HasPrefix(text, []byte("{")), bytes.HasPrefix(text, []byte("[")):
		return JSON
	}
	return XL
}

// File is a parsed configuration of any form. Errors of its methods are those of
// the form's package, all of them [domcfg.Errors] or [*domcfg.Error].
type File struct {
	Form Form
	source
}

type source interface {
	// DomainName is "" where the form does not need one and there is none.
	DomainName() (string, error)
	// DomainUUID is "" when there is none.
	DomainUUID() (string, error)
	// Stock gives the channels that the stock tools make of the file; for an xl.cfg
	// those of the version xen. What xenchan cannot serve is a warning.
	Stock(xen xlcfg.Version) ([]domcfg.Located, []domcfg.Warning, error)
	// Channels is Stock for those who serve the channels: each Spec is valid.
	Channels() ([]domcfg.Located, []domcfg.Warning, error)
	// Replace is the file with specs in place of its channels, and every other
	// byte as it is.
	Replace(specs []channel.Spec) (string, error)
}

// Parse reads a configuration of any form. file is its name for messages.
func Parse(file string, src []byte) (*File, error) {
	var s source
	var err error
	form := FormOf(src)
	switch form {
	case Libvirt:
		var f *domxml.File
		f, err = domxml.Parse(file, src)
		s = libvirt{f}
	case JSON:
		s, err = parseJSON(file, src)
	default:
		var f *xlcfg.File
		f, err = xlcfg.Parse(file, src)
		s = xl{f}
	}
	if err != nil {
		return nil, err
	}
	return &File{form, s}, nil
}

// Replace is the file with specs in place of its channels, and every other byte as
// it is.
func (f *File) Replace(specs []channel.Spec) (string, error) {
	text, err := f.source.Replace(specs)
	if err != nil {
		return "", err
	}
	return text, says(text, specs)
}

type xl struct{ *xlcfg.File }

func (f xl) Stock(xen xlcfg.Version) ([]domcfg.Located, []domcfg.Warning, error) {
	return xlcfg.Stock(f.File, xen)
}

func (f xl) Channels() ([]domcfg.Located, []domcfg.Warning, error) { return xlcfg.Channels(f.File) }

func (f xl) Replace(specs []channel.Spec) (string, error) { return xlcfg.Replace(f.File, specs) }

type libvirt struct{ *domxml.File }

func (f libvirt) Stock(xlcfg.Version) ([]domcfg.Located, []domcfg.Warning, error) {
	return domxml.Stock(f.File)
}

func (f libvirt) Channels() ([]domcfg.Located, []domcfg.Warning, error) {
	return domxml.Channels(f.File)
}

func (f libvirt) Replace(specs []channel.Spec) (string, error) { return domxml.Replace(f.File, specs) }

// Format is specs alone in a form. It ends in a newline, unless it is empty, as
// libvirt's form of no channels is.
func Format(form Form, specs []channel.Spec) (string, error) {
	var text string
	switch form {
	case XL:
		text = xlcfg.Format(specs)
	case Libvirt:
		text = domxml.Format(specs)
	case JSON:
		text = formatJSON(specs)
	default:
		return "", fmt.Errorf("%q is no form of a configuration", form)
	}
	if text == "" {
		return "", nil
	}
	return text, says(text, specs)
}

// says reads text to be sure that it says what it should. A form may lack a
// character, as XML does.
func says(text string, specs []channel.Spec) error {
	f, err := Parse("the result", []byte(text))
	if err != nil {
		return fmt.Errorf("cannot be written: %w", err)
	}
	got, _, err := f.Channels()
	if err != nil {
		return fmt.Errorf("cannot be written: %w", err)
	}
	if !slices.EqualFunc(got, specs, func(l domcfg.Located, s channel.Spec) bool { return l.Spec == s }) {
		return fmt.Errorf("the form %s cannot say these channels", f.Form)
	}
	return nil
}

// isStock says that the stock tools know a key.
func isStock(key string) bool {
	return key == "name" || key == "connection" || key == "path" || key == "backend"
}

// ownFields are those of s that only xenchan knows.
func ownFields(s channel.Spec) []channel.Field {
	return slices.DeleteFunc(channel.Fields(s.String()), func(f channel.Field) bool { return isStock(f.Key) })
}

// Warnings says what of specs the tools that read a form do not know.
func Warnings(form Form, specs []channel.Spec) []string {
	var all []string
	for _, s := range specs {
		var own []string
		if s.Backend != "" && form == Libvirt {
			own = append(own, "backend")
		}
		for _, f := range ownFields(s) {
			own = append(own, f.Key)
		}
		if len(own) > 0 {
			what := map[Form]string{
				XL:      "xl warns of it and goes on",
				Libvirt: "it is in <metadata>, which belongs into <domain>, and libvirt leaves it alone",
				JSON:    "libxl ignores it",
			}[form]
			all = append(all, fmt.Sprintf("%s: only xenchan knows %s: %s", s.Name, strings.Join(own, ", "), what))
		}
		if s.Connection == channel.Socket && s.Path == "" {
			what := map[Form]string{
				XL:      "xl refuses the file",
				Libvirt: "libvirt puts it at /var/lib/libvirt/libxl/channel/target/DOMAIN-NAME",
				JSON:    "libxl requires one",
			}[form]
			all = append(all, fmt.Sprintf("%s: a socket without path: xenchan puts it at /run/xenchan/DOMAIN/NAME.sock; %s", s.Name, what))
		}
	}
	return all
}

package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
	"github.com/xenchan/xenchan/channel/xlcfg"
)

// jsonChannel is a channel as libxl writes it (libxl_types.idl, device_channel),
// with what only we know in a member of its own. The devid is left to libxl: it is
// no part of what a channel is, and some versions begin at 0, which is taken.
type jsonChannel struct {
	BackendID uint32            `json:"backend_domid,omitempty"`
	Backend   string            `json:"backend_domname,omitempty"`
	Name      string            `json:"name,omitempty"`
	PTY       *struct{}         `json:"connection.pty,omitempty"`
	Socket    *jsonSocket       `json:"connection.socket,omitempty"`
	Own       map[string]string `json:"xenchan,omitempty"`
}

type jsonSocket struct {
	Path string `json:"path,omitempty"`
}

func formatJSON(specs []channel.Spec) string {
	config := struct {
		Channels []jsonChannel `json:"channels"`
	}{[]jsonChannel{}}
	for _, s := range specs {
		c := jsonChannel{Backend: s.Backend, Name: s.Name, Own: map[string]string{}}
		for _, f := range ownFields(s) {
			c.Own[f.Key] = f.Value
		}
		if s.Connection == channel.Socket {
			c.Socket = &jsonSocket{s.Path}
		} else {
			c.PTY = &struct{}{}
		}
		config.Channels = append(config.Channels, c)
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "    ") // libxl's
	_ = e.Encode(config)    // of strings and numbers, to a Builder
	return b.String()
}

// jsonFile is a domain's configuration as `xl -N create` prints it, or the list
// of one domain that `xl list -l DOMAIN` prints.
type jsonFile struct {
	src      *domcfg.Source
	config   jsonConfig
	channels []jsonChannel
	places   []domcfg.Place // of each channel
}

type jsonConfig struct {
	Info struct {
		Name string `json:"name"`
		UUID string `json:"uuid"`
	} `json:"c_info"`
	Channels json.RawMessage `json:"channels"`
}

func parseJSON(file string, src []byte) (*jsonFile, error) {
	if len(src) > xlcfg.MaxFileSize {
		return nil, domcfg.TooLarge(file, len(src), xlcfg.MaxFileSize)
	}
	f := &jsonFile{src: domcfg.NewSource(file, string(src))}
	if bytes.HasPrefix(bytes.TrimLeft(src, " \t\r\n"), []byte("[")) {
		var list []struct {
			Config jsonConfig `json:"config"`
		}
		if err := json.Unmarshal(src, &list); err != nil {
			return nil, f.explain(0, err)
		}
		if len(list) != 1 {
			return nil, f.fail(0, fmt.Sprintf("a list of %d domains", len(list)), "a file is the configuration of one", "`xl list -l DOMAIN` prints one")
		}
		f.config = list[0].Config
	} else if err := json.Unmarshal(src, &f.config); err != nil {
		return nil, f.explain(0, err)
	}
	if len(f.config.Channels) == 0 {
		return f, nil
	}
	return f, f.readChannels()
}

// readChannels reads each channel where it stands. A json.RawMessage is the bytes
// of the file, and between two of a list there are blanks and a comma alone.
func (f *jsonFile) readChannels() error {
	at := strings.Index(f.src.Text, string(f.config.Channels))
	var list []json.RawMessage
	if err := json.Unmarshal(f.config.Channels, &list); err != nil {
		return f.explain(at, err)
	}
	for _, raw := range list {
		at += strings.Index(f.src.Text[at:], string(raw))
		var c jsonChannel
		if err := json.Unmarshal(raw, &c); err != nil {
			return f.explain(at, err)
		}
		f.channels, f.places = append(f.channels, c), append(f.places, f.src.Place(at))
		at += len(raw)
	}
	return nil
}

func (f *jsonFile) fail(offset int, what, why, fix string) error {
	return domcfg.Errors{{Message: f.src.Message(f.src.Place(offset), "", what, why, fix)}}
}

// explain says what is wrong with the value at offset.
func (f *jsonFile) explain(offset int, err error) error {
	if bad, ok := errors.AsType[*json.SyntaxError](err); ok {
		at := max(int(bad.Offset)-1, 0)
		if strings.Contains(bad.Error(), "unexpected end") {
			at++
		}
		return f.fail(offset+at, "not well-formed JSON: "+bad.Error(), "", "`jq . FILE` says more")
	}
	if bad, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return f.fail(offset+max(int(bad.Offset)-1, 0), fmt.Sprintf("a %s where libxl has another kind of value", bad.Value), "", "give what `xl -N create` or `xl list -l DOMAIN` prints")
	}
	return f.fail(offset, err.Error(), "", "")
}

func (f *jsonFile) DomainName() (string, error) { return f.config.Info.Name, nil }

func (f *jsonFile) DomainUUID() (string, error) {
	uuid := strings.ToLower(f.config.Info.UUID)
	if uuid != "" && !domcfg.IsUUID(uuid) {
		return "", f.fail(0, fmt.Sprintf("%q is not a uuid", uuid), "it has groups of 8, 4, 4, 4 and 12 hexadecimal digits", "correct it, or leave it away")
	}
	return uuid, nil
}

func (f *jsonFile) Replace([]channel.Spec) (string, error) {
	return "", f.fail(0, "no channels can be put into JSON", "neither xl nor libvirt reads a domain from it", "give an xl.cfg or libvirt's XML")
}

func (f *jsonFile) Stock(xlcfg.Version) ([]domcfg.Located, []domcfg.Warning, error) {
	specs, r := f.read()
	warnings, err := r.Stock()
	if err != nil {
		return nil, warnings, err
	}
	return specs, warnings, nil
}

func (f *jsonFile) Channels() ([]domcfg.Located, []domcfg.Warning, error) {
	specs, r := f.read()
	warnings, err := r.Served()
	if err != nil {
		return nil, warnings, err
	}
	return specs, warnings, nil
}

func (f *jsonFile) read() ([]domcfg.Located, *domcfg.Report) {
	r := &domcfg.Report{Source: f.src}
	var specs []domcfg.Located
	for i, c := range f.channels {
		at := f.places[i]
		l := domcfg.Located{File: f.src.Name, Line: at.Line, Col: at.Col, NameAt: at, PathAt: at}
		switch {
		case c.PTY != nil && c.Socket == nil:
			l.Connection = channel.PTY
		case c.Socket != nil && c.PTY == nil:
			l.Connection, l.Path = channel.Socket, c.Socket.Path
		default:
			r.Fail(at, "connection", "the channel has not one connection", "libxl refuses the domain", `give "connection.socket": {"path": PATH} or "connection.pty": {}`)
			continue
		}
		l.Name, l.Backend = c.Name, c.Backend
		if l.Backend == "" && c.BackendID != 0 {
			l.Backend = strconv.FormatUint(uint64(c.BackendID), 10)
		}
		check(r, &l, c.Own)
		specs = append(specs, l)
	}
	r.Together(specs)
	return specs, r
}

// check sets what only we know, and reports what is not valid.
func check(r *domcfg.Report, l *domcfg.Located, own map[string]string) {
	at, faults := domcfg.Place{Line: l.Line, Col: l.Col}, r.Failed()
	unserve := func(err error) {
		if bad, ok := errors.AsType[*channel.SpecError](err); ok {
			r.Unserve(at, bad.Key, bad.Msg, "", bad.Hint)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(own)) {
		if own[key] == "" || isStock(key) {
			r.Warn(at, key, fmt.Sprintf("%q in \"xenchan\" is ignored", key), "it has no value, or is one of libxl's own", "remove it")
			continue
		}
		unserve(l.Set(key, own[key]))
	}
	if all, ok := l.Validate().(interface{ Unwrap() []error }); ok {
		for _, err := range all.Unwrap() {
			unserve(err)
		}
	}
	if r.Failed() == faults {
		for _, w := range l.Warnings() {
			r.Warn(at, w.Key, w.Msg, "", w.Hint)
		}
	}
}

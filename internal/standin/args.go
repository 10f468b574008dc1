package standin

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/xenchan/xenchan/xen"
)

// Request is what libxl asks of a device model, from its command line.
type Request struct {
	DomID xen.DomID
	Name  string // of the domain
	// Probe says that there is no domain: libxl since 4.20 asks what the program
	// can do before it starts it for good.
	Probe bool
	// Machine is the machine to emulate; a PV or PVH domain has "xenpv".
	Machine string
	// Monitors are where QMP is spoken.
	Monitors []Monitor
	// Chardevs are the host ends of channels, as libxl numbers them.
	Chardevs []Chardev
}

// Monitor is a listening socket for QMP, by path or inherited.
type Monitor struct {
	ID   string
	Path string
	FD   int // when Path is empty
}

// Chardev is the host end of a channel: a pty, or a socket with a path.
type Chardev struct {
	ID   string
	Path string // empty for a pty
}

// MachinePV is libxl's machine for domains without an emulated one.
const MachinePV = "xenpv"

// valued are the options of libxl's that have a value; all others are skipped
// with whatever follows them, as long as that does not begin with a dash.
const (
	optDomID   = "-xen-domid"
	optName    = "-name"
	optMachine = "-machine"
	optChardev = "-chardev"
	optMon     = "-mon"
)

// Parse reads a command line without the program's name. What it does not know
// is for a real QEMU, and ignored: a user's device_model_args are there too.
func Parse(args []string) (Request, error) {
	r := Request{Probe: true}
	sockets := make(map[string]Monitor)
	for i := 0; i < len(args); i++ {
		option := args[i]
		switch option {
		case optDomID, optName, optMachine, optChardev, optMon:
		default:
			continue
		}
		if i++; i == len(args) {
			return Request{}, fmt.Errorf("%s has no value", option)
		}
		value := args[i]
		switch option {
		case optDomID:
			id, err := xen.ParseDomID(value)
			if err != nil {
				return Request{}, fmt.Errorf("%s: %w", option, err)
			}
			r.DomID, r.Probe = id, false
		case optName:
			r.Name, _, _ = strings.Cut(value, ",")
		case optMachine:
			r.Machine, _, _ = strings.Cut(value, ",")
		case optChardev:
			if err := r.chardev(value, sockets); err != nil {
				return Request{}, err
			}
		case optMon:
			m, ok := sockets[property(value, "chardev")]
			if !ok {
				return Request{}, fmt.Errorf("%s %s: there is no such chardev before it", option, value)
			}
			r.Monitors = append(r.Monitors, m)
		}
	}
	if !r.Probe && r.DomID == 0 {
		return Request{}, errors.New("-xen-domid 0: the control domain has no device model")
	}
	return r, nil
}

// chardev takes note of one -chardev. Libxl's own sockets are for monitors, and
// its names for channels are known.
func (r *Request) chardev(value string, sockets map[string]Monitor) error {
	kind, _, _ := strings.Cut(value, ",")
	id := property(value, "id")
	if id == "" {
		return fmt.Errorf("%s %s: no id", optChardev, value)
	}
	c := Chardev{ID: id}
	switch kind {
	case "pty":
	case "socket":
		if fd := property(value, "fd"); fd != "" {
			n, err := strconv.Atoi(fd)
			if err != nil || n < 0 {
				return fmt.Errorf("%s %s: fd is no number", optChardev, value)
			}
			sockets[id] = Monitor{ID: id, FD: n}
			return nil
		}
		if c.Path = socketPath(value); c.Path == "" {
			return fmt.Errorf("%s %s: no path", optChardev, value)
		}
		sockets[id] = Monitor{ID: id, Path: c.Path}
	default:
		return nil // a user's own
	}
	if strings.HasPrefix(id, channelPrefix) {
		r.Chardevs = append(r.Chardevs, c)
	}
	return nil
}

// WithoutChannels is a command line without the host ends of channels, for a QEMU whose
// domain has them from somebody else.
func WithoutChannels(args []string) (rest []string) {
	for i := 0; i < len(args); i++ {
		if args[i] == optChardev && i+1 < len(args) && strings.HasPrefix(property(args[i+1], "id"), channelPrefix) {
			i++
			continue
		}
		rest = append(rest, args[i])
	}
	return rest
}

// channelPrefix begins libxl's name for the chardev of a channel; the devid follows.
const channelPrefix = "libxl-channel"

// Lost says that there is a channel for which libxl has made no device: xl of Xen 4.17,
// and before 4.18.5, 4.19.2 and 4.20.1, gives the first channel the number of the
// primary console, which libxl then refuses without ending the creation. But it
// gives its device model the chardev.
func (r Request) Lost() bool {
	for _, c := range r.Chardevs {
		if id, ok := c.DevID(); ok && id == 0 {
			return true
		}
	}
	return false
}

// DevID is the device's number in libxl's name for the chardev.
func (c Chardev) DevID() (int, bool) {
	n, err := strconv.Atoi(strings.TrimPrefix(c.ID, channelPrefix))
	return n, err == nil && n >= 0
}

// property is the value of one key in a list like "socket,id=a,path=b".
func property(list, key string) string {
	for part := range strings.SplitSeq(list, ",") {
		if value, ok := strings.CutPrefix(part, key+"="); ok {
			return value
		}
	}
	return ""
}

// socketPath is the path in a -chardev of libxl's, which does not double a comma
// in it as QEMU wants it: what follows the path is always one of two texts.
func socketPath(value string) string {
	_, path, ok := strings.Cut(value, ",path=")
	if !ok {
		return ""
	}
	for _, end := range []string{",server=on,wait=off", ",server,nowait"} {
		if before, ok := strings.CutSuffix(path, end); ok {
			return before
		}
	}
	return path
}

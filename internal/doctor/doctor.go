// Package doctor finds out why a channel does not work: it checks each hop
// between a program on the host and one in the guest, in the order in which they
// depend on each other, and names the broken one with its fix. Every failure that
// it knows is a value here, so that people and scripts see the same ones.
package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"os"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenbus"
	"github.com/xenchan/xenchan/xenstore"
)

// Status is how a check came out.
type Status string

// A Warning does not stop bytes from flowing now.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Failed  Status = "failed"
)

// Finding is the result of one check.
type Finding struct {
	// Code names what was found, for scripts; it does not change.
	Code   string `json:"code"`
	Status Status `json:"status"`
	// Subject is the host, or DOMAIN/NAME of a channel.
	Subject string `json:"subject"`
	Detail  string `json:"detail"`
	// Fix says what to do; empty when nothing is to be done.
	Fix string `json:"fix,omitempty"`
}

// Host is what the checks look at.
type Host struct {
	Name string // for Finding.Subject
	// Hypervisor and Store open this host's; their errors say what to do.
	Hypervisor func(context.Context) (xen.Hypervisor, error)
	Store      func(context.Context) (*xenstore.Store, error)
	RunDir     string
	// Embedded says that there is nothing to protect.
	Embedded bool
}

// report gathers findings about one subject.
type report struct {
	subject  string
	findings []Finding
}

func (r *report) add(code string, s Status, fix, format string, args ...any) {
	r.findings = append(r.findings, Finding{Code: code, Status: s, Subject: r.subject, Detail: fmt.Sprintf(format, args...), Fix: fix})
}

// Check examines the host and then the channels of a domain: one of them, all,
// or, with no domain named, those of all domains. The error is about what was
// asked for, as [toolstack.ErrNoDomain]; what is broken is in the findings.
func Check(ctx context.Context, h Host, domain, name string) ([]Finding, error) {
	r := &report{subject: h.Name}
	if hv, err := h.Hypervisor(ctx); err != nil {
		r.add("hypervisor-unreachable", Failed, "", "%v", err)
	} else {
		r.add("hypervisor", OK, "", "event channels and grants can be used")
		hv.Close()
	}
	store, err := h.Store(ctx)
	if err != nil {
		r.add("store-unreachable", Failed, "", "%v", err)
		return r.findings, nil
	}
	defer store.Close()
	self, err := store.Read(ctx, "domid")
	if err != nil {
		r.add("store-unreadable", Failed, "run this as root", "xenstore does not say which domain this is: %v", err)
		return r.findings, nil
	}
	r.add("store", OK, "", "xenstored answers; this is domain %s", self)
	served, running := checkDaemon(ctx, r, h)

	if running {
		r.findings = append(r.findings, checkDeclared(ctx, h.RunDir, domain, name)...)
		r.findings = append(r.findings, checkFirewall(ctx, h.RunDir)...)
	}
	tools := &toolstack.Toolstack{Store: store, RunDir: h.RunDir}
	channels, err := wanted(ctx, tools, domain, name)
	if err != nil {
		return r.findings, err
	}
	if domain != "" && name == "" {
		r.findings = append(r.findings, checkDeviceModel(ctx, tools, domain)...)
	}
	for _, c := range channels {
		cr := &report{subject: c.Domain + "/" + c.Name}
		checkChannel(cr, c, served, running, self)
		r.findings = append(r.findings, cr.findings...)
	}
	return r.findings, nil
}

// key names a channel's device.
type key struct {
	dom uint16
	dev int
}

func checkDaemon(ctx context.Context, r *report, h Host) (map[key]daemon.Status, bool) {
	rows, err := daemon.Query(ctx, h.RunDir)
	if err != nil {
		r.add("no-daemon", Failed, startDaemon(h), "%v", err)
		return nil, false
	}
	r.add("daemon", OK, "", "the daemon answers and serves %d channels", len(rows))
	checkProcess(ctx, r, h)
	served := make(map[key]daemon.Status)
	for _, s := range rows {
		served[key{s.DomID, s.DevID}] = s
	}
	return served, true
}

func wanted(ctx context.Context, tools *toolstack.Toolstack, domain, name string) ([]toolstack.Channel, error) {
	if domain == "" {
		domains, err := tools.Domains(ctx)
		if err != nil {
			return nil, err
		}
		var all []toolstack.Channel
		for _, d := range domains {
			channels, err := tools.Channels(ctx, d)
			if err != nil {
				return nil, err
			}
			all = append(all, channels...)
		}
		return all, nil
	}
	d, err := tools.Resolve(ctx, domain)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return tools.Channels(ctx, d)
	}
	c, err := tools.Find(ctx, d, name)
	return []toolstack.Channel{c}, err
}

// checkChannel follows a channel from the device to the client and stops at the
// first broken hop.
func checkChannel(r *report, c toolstack.Channel, served map[key]daemon.Status, running bool, self string) {
	switch {
	case c.Type == "":
		r.add("frontend-gone", Failed, "detach the channel and attach it again", "the guest has deleted its half of the device")
		return
	case c.ServedBy == channel.ServerQEMU:
		r.add("not-ours", OK, "", "made by xl and served by its QEMU (process %d)", *c.QEMUPID)
		return
	case c.ServedBy == channel.ServerStandIn:
		r.add("stand-in", OK, "", "made by xl and served by the domain's device model, xenchan-dm")
		return
	case fmt.Sprint(c.BackendDomID) != self:
		r.add("other-backend", OK, "run the doctor there", "served by domain %d", c.BackendDomID)
		return
	case !running:
		r.add("channel-unserved", Failed, "start the daemon", "no daemon serves it")
		return
	}
	s, ok := served[key{c.DomID, c.DevID}]
	if !ok {
		r.add("channel-unserved", Failed, "look into the daemon's log", "the daemon runs but does not serve it")
		return
	}
	if s.Problem != "" {
		r.add("no-endpoint", Failed, "", "clients cannot connect: %s", s.Problem)
		return
	}
	if !checkStates(r, c) {
		return
	}
	if !checkEndpoint(r, c) {
		return
	}
	checkFlow(r, s)
}

// checkStates looks at the two halves of the device.
func checkStates(r *report, c toolstack.Channel) bool {
	back, front := state(c.State), state(c.FrontendState)
	switch {
	case back == xenbus.Connected && front == xenbus.Connected:
		r.add("connected", OK, "", "guest and daemon share a ring")
		return true
	case front == xenbus.Initialising:
		r.add("guest-not-looking", Failed, "see that the domain runs (xl list) and its kernel has the driver hvc_xen",
			"the guest has not looked at the device")
	case front == xenbus.Closed || front == xenbus.Closing:
		r.add("guest-closed", Failed, "detach the channel and attach it again", "the guest has closed the device")
	case back == xenbus.Closing || back == xenbus.Closed:
		r.add("ring-refused", Failed, "look into the daemon's log; detach the channel and attach it again",
			"the daemon has closed the device: what the guest offered cannot be used")
	default:
		r.add("not-connected", Failed, "look again; if it stays so, into the daemon's log",
			"the daemon's half is %v, the guest's %v", back, front)
	}
	return false
}

func state(s *int) xenbus.State {
	if s == nil {
		return xenbus.Unknown
	}
	return xenbus.State(*s)
}

// checkEndpoint looks for what a client would open.
func checkEndpoint(r *report, c toolstack.Channel) bool {
	path, kind := c.Path, fs.ModeSocket
	if c.Connection == channel.PTY {
		path, kind = c.TTY, fs.ModeDevice|fs.ModeCharDevice
	}
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		r.add("endpoint-missing", Failed, "detach the channel and attach it again", "there is nothing at %q: %v", path, err)
	case info.Mode().Type() != kind:
		r.add("endpoint-replaced", Failed, "remove what is there, detach the channel and attach it again", "%s is something else: %v", path, info.Mode())
	default:
		r.add("endpoint", OK, "", "clients can connect to %s", path)
		return true
	}
	return false
}

// checkFlow looks at who is there to talk.
func checkFlow(r *report, s daemon.Status) {
	if s.Dropped > 0 {
		r.add("bytes-dropped", Warning, "connect a client, or give the channel a larger spool", "%d bytes of the guest were lost, because no client took them in time", s.Dropped)
	}
	if s.Refused > 0 {
		r.add("clients-refused", Warning, "see the daemon's log for who it was; to let them in, attach the channel with them in allow", "%d times a client was turned away that the channel's allow does not name", s.Refused)
	}
	switch {
	case s.Clients == 0:
		r.add("no-client", OK, "", "no program on this host is connected; %d bytes of the guest wait for one", s.Spooled)
	case s.Guest == channel.GuestClosed:
		r.add("guest-not-reading", Warning, "see that the agent runs in the guest and has the terminal open", "no program in the guest has the channel open")
	case s.Guest == channel.GuestUnknown && s.HostToGuest > 0:
		r.add("guest-not-reading", Warning, "see that the agent runs in the guest and has the terminal open", "no program in the guest has read what was sent to it last")
	default:
		r.add("flow", OK, "", "%d bytes from the guest, %d to it", s.GuestToHost, s.HostToGuest)
	}
}

package channel

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxAccountLen and maxBackendLen bound what has no limit of its own in the
// facts: login names have 256 with the NUL, and domain names less in practice.
// maxAllowLen leaves room for some dozens of accounts in a node of xenstore.
const (
	maxAccountLen = 255
	maxBackendLen = 255
	maxAllowLen   = 1024
)

func problem(key, hint, format string, args ...any) *SpecError {
	return &SpecError{Offset: -1, Key: key, Msg: fmt.Sprintf(format, args...), Hint: hint}
}

func missing(key string) *SpecError {
	if key == "name" {
		return problem(key, "add name=NAME, for example name=org.example.agent.0", "the channel has no name")
	}
	return problem(key, "add connection=socket or connection=pty", "the channel has no connection")
}

// Validate joins everything that is wrong with s, each a [*SpecError]. A valid
// Spec can be written with [Spec.String], its name is safe as a file name, and
// its path fits a unix socket.
func (s Spec) Validate() error {
	var errs []error
	check := func(bad *SpecError) {
		if bad != nil {
			errs = append(errs, bad)
		}
	}
	check(checkName(s.Name))
	check(checkConnection(string(s.Connection)))
	if s.Path != "" {
		check(checkPath(s.Path))
	}
	if s.Backend != "" {
		check(checkBackend(s.Backend))
	}
	check(checkMode(s.Mode))
	if s.Owner != "" {
		check(checkAccount("owner", s.Owner))
	}
	if s.Group != "" {
		check(checkAccount("group", s.Group))
	}
	if s.Allow != "" {
		check(checkAllow(s.Allow))
	}
	check(s.Conflict())
	if s.Spool != 0 {
		check(checkSpool(s.Spool))
	}
	if s.Overflow != "" {
		check(checkOverflow(string(s.Overflow)))
	}
	return errors.Join(errs...)
}

// Conflict says which fields cannot be together, or nil.
func (s Spec) Conflict() *SpecError {
	if s.Allow != "" && s.Connection == PTY {
		return problem("allow", "use connection=socket, or give the terminal an owner, a group and a mode", "allow cannot be kept with connection=pty: nobody can tell who opens a terminal")
	}
	return nil
}

// Warnings lists what is allowed and still likely to surprise, with Offset -1.
func (s Spec) Warnings() []*SpecError {
	var w []*SpecError
	if s.Connection == PTY {
		if s.Path != "" {
			w = append(w, problem("path", "leave path away, or use connection=socket", "path is ignored with connection=pty: the terminal's path is chosen by the host"))
		}
		for _, f := range []struct {
			key string
			set bool
		}{{"mode", s.Mode != 0}, {"owner", s.Owner != ""}, {"group", s.Group != ""}} {
			if f.set {
				w = append(w, problem(f.key, "leave "+f.key+" away, or use connection=socket", "%s is ignored with connection=pty: it is for a socket", f.key))
			}
		}
	}
	if s.Connection == Socket && s.Path == "" {
		w = append(w, problem("path", "add path=PATH if stock xl must read this too", "a socket without path is refused by xl; xenchan puts it at /run/xenchan/DOMAIN/NAME.sock"))
	}
	if s.Overflow == Block {
		w = append(w, problem("overflow", "use overflow=drop-oldest unless a client always reads", "overflow=block can stop the guest: a vCPU that writes to a full channel spins until a client reads"))
	}
	return w
}

// CheckName says what is wrong with a channel's name, which may come from a
// guest or from another tool. A good name is safe as one component of a path.
// The error is a [*SpecError].
func CheckName(name string) error {
	if bad := checkName(name); bad != nil {
		return bad
	}
	return nil
}

func checkName(v string) *SpecError {
	const key = "name"
	const hint = "use a name like org.example.agent.0"
	switch {
	case v == "":
		return missing(key)
	case len(v) > MaxNameLen:
		return problem(key, "choose a shorter one", "name of %d bytes: at most %d are allowed", len(v), MaxNameLen)
	case v == "." || v == "..":
		return problem(key, hint, "name %q means a directory", v)
	case strings.Contains(v, "/"):
		return problem(key, hint, "name %q contains '/', and a name is also a file name", v)
	case v[0] == '-':
		return problem(key, hint, "name %q begins with '-', which commands take for an option", v)
	}
	if bad := checkText(key, v); bad != nil {
		return bad
	}
	for i, r := range v {
		if !unicode.IsPrint(r) {
			return problem(key, hint, "name %q contains a character that cannot be printed at byte %d", v, i)
		}
	}
	return nil
}

// checkText refuses what a specification string cannot carry and what would
// deceive whoever reads it on a terminal.
func checkText(key, v string) *SpecError {
	switch {
	case !utf8.ValidString(v):
		return problem(key, "", "%s %q is not valid UTF-8", key, v)
	case strings.IndexFunc(v, unicode.IsControl) >= 0:
		return problem(key, "", "%s %q contains a control character", key, v)
	case strings.Contains(v, ","):
		return problem(key, "", "%s %q contains a comma, which separates keys and cannot be quoted", key, v)
	case strings.TrimSpace(v) != v:
		return problem(key, "remove it", "%s %q has white space at its ends", key, v)
	}
	return nil
}

func checkConnection(v string) *SpecError {
	const key = "connection"
	switch Connection(v) {
	case PTY, Socket:
		return nil
	case "":
		return missing(key)
	}
	hint := "use connection=socket or connection=pty"
	if near := Nearest(v, []string{string(PTY), string(Socket)}); near != "" {
		hint = "did you mean connection=" + near + "?"
		if strings.EqualFold(near, v) {
			hint = "write it in lower case: connection=" + near
		}
	}
	return problem(key, hint, "unknown connection %q", v)
}

func checkPath(v string) *SpecError {
	const key = "path"
	if bad := checkText(key, v); bad != nil {
		return bad
	}
	switch {
	case v[0] != '/':
		return problem(key, "begin it with '/'", "path %q is not absolute", v)
	case v == "/":
		return problem(key, "name a file", "path %q is a directory", v)
	case path.Clean(v) != v:
		return problem(key, "write "+path.Clean(v), "path %q has a '.', '..' or '/' too many", v)
	case len(v) > MaxPathLen:
		return problem(key, "choose a shorter one", "path of %d bytes: a unix socket's has at most %d", len(v), MaxPathLen)
	}
	return nil
}

func checkBackend(v string) *SpecError {
	if len(v) > maxBackendLen {
		return problem("backend", "", "backend of %d bytes: at most %d are allowed", len(v), maxBackendLen)
	}
	return checkText("backend", v)
}

func checkAccount(key, v string) *SpecError {
	if len(v) > maxAccountLen {
		return problem(key, "", "%s of %d bytes: at most %d are allowed", key, len(v), maxAccountLen)
	}
	if bad := checkText(key, v); bad != nil {
		return bad
	}
	if v[0] == '-' || strings.ContainsAny(v, " :/") {
		return problem(key, "give a name or a number", "%s %q cannot be a name in the account database", key, v)
	}
	return nil
}

func checkAllow(v string) *SpecError {
	if len(v) > maxAllowLen {
		return problem("allow", "allow a group", "allow of %d bytes: at most %d are allowed", len(v), maxAllowLen)
	}
	for who := range strings.SplitSeq(v, ":") {
		account := strings.TrimPrefix(who, "@")
		if account == "" {
			return problem("allow", "give users and @groups with ':' between, for example allow=alice:@adm", "allow %q names nobody in one place", v)
		}
		if bad := checkAccount("allow", account); bad != nil {
			return bad
		}
	}
	return nil
}

func checkMode(m fs.FileMode) *SpecError {
	if m > 0o777 {
		return problem("mode", "give three octal digits, for example mode=0660", "mode %#o is more than permission bits (at most 0777)", uint32(m))
	}
	return nil
}

func checkSpool(n int64) *SpecError {
	if n < MinSpool || n > MaxSpool {
		return problem("spool", "choose a size between them", "the spool must be of 4KiB to 1024MiB")
	}
	return nil
}

func checkOverflow(v string) *SpecError {
	switch Overflow(v) {
	case DropOldest, Block:
		return nil
	}
	return problem("overflow", "use overflow=drop-oldest or overflow=block", "unknown overflow %q", v)
}

// DefaultPath is where the socket of a channel without a path is:
// RUNDIR/DOMAIN/NAME.sock. It fails when a part is not safe as a file name, or
// when the whole does not fit a unix socket's address.
func DefaultPath(runDir, domain, name string) (string, error) {
	if bad := checkName(name); bad != nil {
		return "", bad
	}
	if domain == "" || domain == "." || domain == ".." || strings.ContainsFunc(domain, func(r rune) bool { return r == '/' || unicode.IsControl(r) }) {
		return "", problem("path", "give path=PATH", "domain name %q cannot be part of the default socket path", domain)
	}
	p := path.Join(runDir, domain, name+".sock")
	if len(p) > MaxPathLen {
		return "", problem("path", "give a shorter one with path=PATH", "the default socket path %s has %d bytes: a unix socket's has at most %d", p, len(p), MaxPathLen)
	}
	return p, nil
}

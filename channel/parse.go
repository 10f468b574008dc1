package channel

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// SpecError is one thing wrong with a [Spec] or with the string it is written in.
type SpecError struct {
	// Offset is where in the string the key begins, in bytes. It is -1 when
	// there is no such place: something is missing, or there is no string.
	Offset int
	// Key is the key it is about, as it was written; empty when it is the whole.
	Key string
	// Msg says what is wrong and Hint, which may be empty, what to do.
	Msg, Hint string
}

// Error is "at byte N: Msg; Hint" with the parts that there are.
func (e *SpecError) Error() string {
	s := e.Msg
	if e.Offset >= 0 {
		s = fmt.Sprintf("at byte %d: %s", e.Offset, s)
	}
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// keys in the order in which messages list them: xl's, then ours.
var keys = []string{"name", "connection", "path", "backend", "mode", "owner", "group", "allow", "spool", "overflow"}

// Keys lists the keys of a specification string: the four of xl, then ours.
func Keys() []string { return slices.Clone(keys) }

// isspace is what C's isspace accepts in the "C" locale; xl trims with it.
const isspace = " \t\n\v\f\r"

// Field is one piece of a specification string: the text between two commas.
type Field struct {
	// Text is the piece as written.
	Text string
	// Key and Value are trimmed. Without a '=' Key is the whole piece.
	Key, Value string
	// Offset is where in the string Key begins, in bytes.
	Offset int
	// Assigned says that there is a '=' with at least one byte after it,
	// which may be a space: the condition on which xl accepts the piece.
	Assigned bool
}

// Fields splits s as xl does since 4.18: at every comma, where empty pieces
// vanish and nothing can be quoted, then each piece at its first '='.
func Fields(s string) []Field {
	var fields []Field
	for start := 0; start <= len(s); {
		end := len(s)
		if i := strings.IndexByte(s[start:], ','); i >= 0 {
			end = start + i
		}
		if piece := s[start:end]; piece != "" {
			key, value, _ := strings.Cut(piece, "=")
			f := Field{
				Text:     piece,
				Key:      strings.Trim(key, isspace),
				Value:    strings.Trim(value, isspace),
				Offset:   start,
				Assigned: value != "",
			}
			if f.Key != "" {
				f.Offset += strings.Index(piece, f.Key)
			}
			fields = append(fields, f)
		}
		start = end + 1
	}
	return fields
}

// ParseSpec reads xl's string, as in
// "connection=socket,path=/run/a.sock,name=org.example.agent.0", with our further
// keys. It is stricter than xl: an unknown or repeated key, an empty value or a
// value that does not [Spec.Validate] is an error. All that is wrong is reported
// at once: the error is a [*SpecError] or joins several, in the order of the string.
func ParseSpec(s string) (Spec, error) {
	if len(s) > MaxSpecLen {
		return Spec{}, &SpecError{Offset: -1, Msg: fmt.Sprintf("channel specification of %d bytes: at most %d are allowed", len(s), MaxSpecLen)}
	}
	var (
		spec Spec
		errs []error
		seen = map[string]bool{}
	)
	for _, f := range Fields(s) {
		if err := spec.setField(f, seen); err != nil {
			err.Offset = f.Offset
			errs = append(errs, err)
		}
		seen[f.Key] = true
	}
	for _, key := range []string{"name", "connection"} {
		if !seen[key] {
			errs = append(errs, missing(key))
		}
	}
	if bad := spec.Conflict(); bad != nil && len(errs) == 0 {
		errs = append(errs, bad)
	}
	switch len(errs) {
	case 0:
		return spec, nil
	case 1:
		return Spec{}, errs[0]
	}
	return Spec{}, errors.Join(errs...)
}

func (s *Spec) setField(f Field, seen map[string]bool) *SpecError {
	switch {
	case !strings.Contains(f.Text, "="):
		return &SpecError{Key: f.Key, Msg: fmt.Sprintf("%q has no '='", f.Text), Hint: "write KEY=VALUE; a value cannot contain a comma"}
	case f.Key == "":
		return &SpecError{Msg: fmt.Sprintf("%q has no key", f.Text), Hint: "write KEY=VALUE"}
	case f.Value == "":
		return &SpecError{Key: f.Key, Msg: fmt.Sprintf("%q has no value", f.Text), Hint: "give a value or leave the key away"}
	case seen[f.Key]:
		return &SpecError{Key: f.Key, Msg: fmt.Sprintf("key %q is given twice", f.Key), Hint: "keep one"}
	}
	return s.set(f.Key, f.Value)
}

// Set sets the field that key names from its text. A value that is not valid
// leaves s as it was; the error is a [*SpecError] with Offset -1.
func (s *Spec) Set(key, value string) error {
	if err := s.set(key, value); err != nil {
		return err
	}
	return nil
}

func (s *Spec) set(key, value string) *SpecError {
	next := *s
	var bad *SpecError
	switch key {
	case "name":
		next.Name, bad = value, checkName(value)
	case "connection":
		next.Connection, bad = Connection(value), checkConnection(value)
	case "path":
		next.Path, bad = value, checkPath(value)
	case "backend":
		next.Backend, bad = value, checkBackend(value)
	case "mode":
		next.Mode, bad = parseMode(value)
	case "owner":
		next.Owner, bad = value, checkAccount("owner", value)
	case "group":
		next.Group, bad = value, checkAccount("group", value)
	case "allow":
		next.Allow, bad = value, checkAllow(value)
	case "spool":
		next.Spool, bad = parseSize(value)
	case "overflow":
		next.Overflow, bad = Overflow(value), checkOverflow(value)
	default:
		bad = unknownKey(key)
	}
	if bad != nil {
		return bad
	}
	*s = next
	return nil
}

func unknownKey(key string) *SpecError {
	hint := "valid keys are " + strings.Join(keys, ", ")
	if near := Nearest(key, keys); near != "" {
		hint = fmt.Sprintf("did you mean %q? ", near) + hint
	}
	return problem(key, hint, "unknown key %q", key)
}

func parseMode(v string) (fs.FileMode, *SpecError) {
	const hint = "give octal digits as in chmod, for example mode=0660"
	n, err := strconv.ParseUint(v, 8, 32)
	if err != nil {
		return 0, problem("mode", hint, "mode %q is not an octal number", v)
	}
	if n == 0 {
		return 0, problem("mode", "leave mode away for the default", "mode %q would lock every client out", v)
	}
	m := fs.FileMode(n)
	return m, checkMode(m)
}

// parseSize reads bytes with an optional suffix. k and M are binary, as for xl's
// sizes and QEMU's, so that k is KiB.
func parseSize(v string) (int64, *SpecError) {
	digits, shift := v, 0
	for _, u := range []struct {
		suffix string
		shift  int
	}{{"KiB", 10}, {"MiB", 20}, {"k", 10}, {"M", 20}} {
		if rest, ok := strings.CutSuffix(v, u.suffix); ok {
			digits, shift = rest, u.shift
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if errors.Is(err, strconv.ErrSyntax) {
		return 0, problem("spool", "give bytes, or a number with k, M, KiB or MiB, for example spool=4MiB", "spool %q is not a size", v)
	}
	if err != nil || n > uint64(MaxSpool)>>shift {
		return 0, checkSpool(MaxSpool + 1)
	}
	size := int64(n) << shift
	if size == 0 {
		return 0, problem("spool", "leave spool away for the default of 1MiB", "spool %q: a channel cannot be without a spool", v)
	}
	return size, checkSpool(size)
}

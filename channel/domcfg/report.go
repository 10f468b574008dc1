package domcfg

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/xenchan/xenchan/channel"
)

// maxMessages bounds a report, of errors and of warnings each: a file that is no
// configuration at all could give one for each line.
const maxMessages = 50

// Report collects what there is to say of a file.
type Report struct {
	*Source
	// Refused is what the stock tools refuse, Unserved what they take and xenchan
	// cannot serve.
	Refused, Unserved Errors
	Warnings          []Warning
}

// Fail is for what the stock tools refuse.
func (r *Report) Fail(at Place, key, what, why, fix string) {
	if !r.Full() {
		r.Refused = append(r.Refused, &Error{Message: r.Message(at, key, what, why, fix)})
	}
}

// Unserve is for what the stock tools take and xenchan cannot serve.
func (r *Report) Unserve(at Place, key, what, why, fix string) {
	if len(r.Unserved) <= maxMessages {
		r.Unserved = append(r.Unserved, &Error{Message: r.Message(at, key, what, why, fix)})
	}
}

// Warn is for what the tools do without saying so, or say and go on.
func (r *Report) Warn(at Place, key, what, why, fix string) {
	r.warn(false, at, key, what, why, fix)
}

// Note is for what is no fault of the file.
func (r *Report) Note(at Place, key, what, why, fix string) {
	r.warn(true, at, key, what, why, fix)
}

func (r *Report) warn(note bool, at Place, key, what, why, fix string) {
	if len(r.Warnings) < maxMessages {
		r.Warnings = append(r.Warnings, Warning{Message: r.Message(at, key, what, why, fix), Note: note})
	}
}

// Full says that a file has so many errors that no more are taken.
func (r *Report) Full() bool { return len(r.Refused) > maxMessages }

// Failed is how many errors there are of either kind.
func (r *Report) Failed() int { return len(r.Refused) + len(r.Unserved) }

// Stock is the report to those who ask what the stock tools make of the file: what
// xenchan cannot serve is a warning. The error is [Errors] or nil.
func (r *Report) Stock() ([]Warning, error) {
	for _, e := range r.Unserved {
		if len(r.Warnings) < maxMessages {
			r.Warnings = append(r.Warnings, Warning{Message: e.Message})
		}
	}
	return r.result(r.Refused)
}

// Served is the report to those who serve the channels: what they cannot serve is
// an error as well.
func (r *Report) Served() ([]Warning, error) {
	return r.result(slices.Concat(r.Refused, r.Unserved))
}

// result is in the order of the file, and not too long.
func (r *Report) result(errs Errors) ([]Warning, error) {
	slices.SortStableFunc(r.Warnings, func(a, b Warning) int { return a.compare(b.Message) })
	if len(errs) == 0 {
		return r.Warnings, nil
	}
	slices.SortStableFunc(errs, func(a, b *Error) int { return a.compare(b.Message) })
	if len(errs) > maxMessages {
		next := errs[maxMessages]
		errs = append(errs[:maxMessages], &Error{Message: r.Message(Place{next.Line, next.Col}, "", "too many errors", "what follows is not reported", "")})
	}
	return r.Warnings, errs
}

// Strict is what is wrong for a reader who takes no file with a surprise: the errors, and
// each warning that is no note. The error is [Errors] or nil, or err if that is another one.
func Strict(warnings []Warning, err error) error {
	var all Errors
	if err != nil && !errors.As(err, &all) {
		return err
	}
	for _, w := range warnings {
		if !w.Note {
			all = append(all, &Error{Message: w.Message})
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortStableFunc(all, func(a, b *Error) int { return a.compare(b.Message) })
	return all
}

func (m Message) compare(n Message) int {
	return cmp.Or(cmp.Compare(m.Line, n.Line), cmp.Compare(m.Col, n.Col))
}

// Together checks the channels of one domain against each other.
func (r *Report) Together(specs []Located) {
	names, paths := map[string]Place{}, map[string]Place{}
	for _, s := range specs {
		if p, ok := names[s.Name]; ok && s.Name != "" {
			r.Unserve(s.NameAt, "name", fmt.Sprintf("two channels have the name %q", s.Name),
				fmt.Sprintf("the other one is at %s:%d:%d, and both ends find a channel by its name", r.Name, p.Line, p.Col), "rename one")
		} else {
			names[s.Name] = s.NameAt
		}
		if s.Path == "" {
			continue
		}
		if p, ok := paths[s.Path]; ok {
			r.Warn(s.PathAt, "path", fmt.Sprintf("two channels have the path %s", s.Path),
				fmt.Sprintf("the other one is at %s:%d:%d, and only one of them can listen there", r.Name, p.Line, p.Col), "change one")
		} else {
			paths[s.Path] = s.PathAt
		}
	}
	if n := len(specs); n > channel.MaxChannels {
		s := specs[channel.MaxChannels]
		r.Unserve(Place{s.Line, s.Col}, "channel", fmt.Sprintf("%d channels", n),
			fmt.Sprintf("a Linux guest has terminals for %d: its kernel makes hvc0 to hvc7, and the primary console is hvc0", channel.MaxChannels),
			fmt.Sprintf("remove %d", n-channel.MaxChannels))
	}
}

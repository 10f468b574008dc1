package bootconfig

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/xenchan/xenchan/agent/mdata"
	"github.com/xenchan/xenchan/toolstack"
)

// Ready is what a guest says when it is configured. Anything else is why it is not.
const Ready = "ok"

// maxReason is how much of a guest's reason is kept, in bytes.
const maxReason = 512

// EventKind is what has happened.
type EventKind string

// The kinds of events.
const (
	EventGiven      EventKind = "given"      // a value, for the first time in a session
	EventSecret     EventKind = "secret"     // a secret was given; there is a receipt
	EventConfigured EventKind = "configured" // the guest says that it is
	EventFailed     EventKind = "failed"     // the guest says why it is not
	EventProblem    EventKind = "problem"    // a secret could not be given
)

// Event is something that has happened in a session. Text may be the guest's.
type Event struct {
	Kind  EventKind
	Key   string
	Bytes int
	Text  string
}

// Session is one guest that asks. It is a [mdata.Source].
type Session struct {
	ctx      context.Context
	domain   toolstack.Domain
	offer    *Offer
	receipts Receipts
	given    map[string]bool
	tell     func(Event) error
}

// NewSession begins with a guest that may be another than the last. tell is called
// with each event before the guest is answered; an event whose tell fails has
// failed, and the guest learns no more than that.
func NewSession(ctx context.Context, d toolstack.Domain, o *Offer, r Receipts, tell func(Event) error) (*Session, error) {
	o, err := o.For(d)
	if err != nil {
		return nil, err
	}
	return &Session{ctx: ctx, domain: d, offer: o, receipts: r, given: make(map[string]bool), tell: tell}, nil
}

// errHost is all that a guest is told of what is wrong on its host.
var errHost = errors.New("the host cannot do it now")

// Get is part of [mdata.Source].
func (s *Session) Get(key string, live bool) ([]byte, bool, error) {
	if value, ok := s.offer.values[key]; ok {
		if !s.given[key] {
			s.given[key] = true
			_ = s.tell(Event{Kind: EventGiven, Key: key, Bytes: len(value)})
		}
		return value, true, nil
	}
	value, ok := s.offer.secrets[key]
	if !ok {
		return nil, false, nil
	}
	if !live {
		return nil, false, mdata.ErrIgnore // nobody may be there any more to take it
	}
	first, err := s.receipts.Take(s.ctx, s.domain, key)
	if err != nil {
		_ = s.tell(Event{Kind: EventProblem, Key: key, Text: err.Error()})
		return nil, false, errHost
	}
	if !first {
		return nil, false, nil
	}
	_ = s.tell(Event{Kind: EventSecret, Key: key, Bytes: len(value)})
	return value, true, nil
}

// Keys is part of [mdata.Source]. As in the protocol's other servers, the host's own
// are not in the list.
func (s *Session) Keys() []string {
	keys := slices.Concat(slices.Collect(maps.Keys(s.offer.values)), slices.Collect(maps.Keys(s.offer.secrets)))
	return slices.DeleteFunc(keys, func(k string) bool { return strings.HasPrefix(k, "sdc:") })
}

// Put is part of [mdata.Source]: a guest says whether it is configured.
func (s *Session) Put(key string, value []byte) error {
	if key != mdata.ReadyKey {
		return errors.New("this host takes no values but " + mdata.ReadyKey)
	}
	e := Event{Kind: EventConfigured, Text: Ready}
	if text := strings.TrimSpace(string(value)); text != Ready {
		e = Event{Kind: EventFailed, Text: reason(strings.TrimPrefix(text, "failed:"))}
	}
	if err := s.tell(e); err != nil {
		return errHost
	}
	return nil
}

// reason is a guest's text on one line of bounded length.
func reason(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), maxReason)], "?")
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	if text = strings.TrimSpace(text); text == "" {
		return "the guest gives no reason"
	}
	return text
}

// Delete is part of [mdata.Source].
func (s *Session) Delete(string) error { return errors.New("this host keeps its values") }

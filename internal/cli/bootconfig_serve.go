package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xenchan/xenchan/agent/mdata"
	"github.com/xenchan/xenchan/internal/bootconfig"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
)

// serving is one `config serve`.
type serving struct {
	*app
	domain, channel string
	offer           *bootconfig.Offer
	receipts        bootconfig.Receipts
	keep            bool

	limit  *time.Timer // until the guest has to be configured; may be nil
	began  bool        // a guest could be served
	lost   bool        // it was said that the channel is gone
	passed bool        // it was said that the guest sends nonsense
	over   bool        // the guest has had its last answer
	result error       // what it has said
}

// lookAgain is the time between two looks for a channel that has gone.
const lookAgain = 200 * time.Millisecond

// errOver is what ends a session after its last answer.
var errOver = errors.New("over")

func (s *serving) within(ctx context.Context, limit time.Duration) error {
	soon, cancel := context.WithCancel(ctx)
	defer cancel()
	if limit > 0 {
		s.limit = time.AfterFunc(limit, cancel)
		defer s.limit.Stop()
	}
	err := s.serve(soon)
	switch {
	case s.over:
		return s.result
	case timedOut(ctx, soon, err):
		return timeoutError{fmt.Errorf("%s has not said within %v that it is configured (--timeout)", s.domain, limit)}
	case ctx.Err() != nil && s.keep:
		return nil // that is how one ends it
	}
	return err
}

// serve serves one session after the other: a guest that reboots is another domain.
func (s *serving) serve(ctx context.Context) error {
	for {
		err := s.session(ctx)
		_, byID := xen.ParseDomID(s.domain)
		switch {
		case s.over || ctx.Err() != nil:
			return ctx.Err()
		case !s.began, byID == nil && errors.Is(err, toolstack.ErrNoDomain):
			return err
		case !s.lost:
			s.lost = true
			s.warn("the channel %s of %s has gone, as with a reboot; waiting for it to come again", s.channel, s.domain)
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
		}
	}
}

// session serves until the channel goes.
func (s *serving) session(ctx context.Context) error {
	tools, err := s.toolstack(ctx)
	if err != nil {
		return err
	}
	defer tools.Store.Close()
	d, err := tools.Resolve(ctx, s.domain)
	if err != nil {
		return err
	}
	tell := func(e bootconfig.Event) error { return s.event(ctx, tools, d, e) }
	source, err := bootconfig.NewSession(ctx, d, s.offer, s.receipts, tell)
	if err != nil {
		return usageError{err}
	}
	c, runDir, err := findServedOf(ctx, tools, d, s.channel)
	if errors.Is(err, toolstack.ErrNoChannel) && !s.began {
		err = fmt.Errorf("%w; give it the channel: xenchan attach %s connection=socket,name=%s", err, s.domain, s.channel)
	}
	if err != nil {
		return err
	}
	conn, err := s.open(ctx, c, runDir, false)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if !s.began {
		s.began = true
		s.tellWithheld(d)
	}
	if err := s.print(d, event{Event: "serving", Channel: s.channel}); err != nil {
		return err
	}
	server := mdata.Server{Source: source, Passed: s.passOver}
	return server.Serve(lastWord{conn, s})
}

// lastWord is the guest's end. It ends with the last answer.
type lastWord struct {
	hostEnd
	s *serving
}

func (c lastWord) Write(p []byte) (int, error) {
	n, err := c.hostEnd.Write(p)
	c.s.lost = false
	if err == nil && c.s.over {
		err = errOver
	}
	return n, err
}

func (s *serving) passOver(why error) {
	if !s.passed {
		s.passed = true
		s.warn("warning: the guest has sent %v, which gets no answer; from now on this is not said again", why)
	}
}

// tellWithheld says which secrets will not be given.
func (s *serving) tellWithheld(d toolstack.Domain) {
	secrets := s.offer.SecretKeys()
	if len(secrets) == 0 {
		return
	}
	all, err := s.receipts.List(d)
	if err != nil {
		s.warn("warning: no secret will be given: %v", err)
	}
	for _, r := range all {
		for _, key := range secrets {
			if r.Key == key {
				s.warn("warning: the secret %s was given at %s, and will not be given again (`xenchan config receipts %s --forget %[1]s` changes that)", key, r.Time.Local().Format(time.DateTime), s.domain)
			}
		}
	}
}

// event is a line of output.
type event struct {
	Time    time.Time `json:"time"`
	Event   string    `json:"event"`
	Domain  string    `json:"domain"`
	DomID   uint16    `json:"domid"`
	Channel string    `json:"channel,omitempty"`
	Key     string    `json:"key,omitempty"`
	Bytes   int       `json:"bytes,omitempty"`
	Text    string    `json:"text,omitempty"`
}

// event notes what has happened, where it is looked for.
func (s *serving) event(ctx context.Context, tools *toolstack.Toolstack, d toolstack.Domain, e bootconfig.Event) error {
	configured := e.Kind == bootconfig.EventConfigured
	last := configured || e.Kind == bootconfig.EventFailed
	if last {
		if err := tools.SetReady(ctx, d, e.Text); err != nil {
			s.warn("the guest has said that it is %s, and that cannot be noted: %v", e.Kind, err)
			return err
		}
	}
	if e.Kind == bootconfig.EventProblem {
		s.warn("the secret %s cannot be given: %s", e.Key, e.Text)
		return nil
	}
	line := event{Event: string(e.Kind), Key: e.Key, Bytes: e.Bytes}
	if !configured {
		line.Text = e.Text
	}
	if err := s.print(d, line); err != nil {
		return err
	}
	if !last {
		return nil
	}
	if s.limit != nil {
		s.limit.Stop()
	}
	s.over = !s.keep
	if !configured {
		s.result = notConfigured(d.Name, e.Text)
	}
	return nil
}

func notConfigured(domain, why string) error {
	return fmt.Errorf("%s says that it could not be configured: %s", domain, why)
}

// print prints a line at once.
func (s *serving) print(d toolstack.Domain, e event) error {
	e.Time, e.Domain, e.DomID = time.Now().UTC().Truncate(time.Millisecond), d.Name, uint16(d.ID)
	if s.output == "json" {
		return s.printJSONLine(e)
	}
	what := printable(e.Channel + e.Key)
	if e.Bytes > 0 {
		what = fmt.Sprintf("%s, %d bytes", what, e.Bytes)
	}
	_, err := fmt.Fprintf(s.stdout, "%s  %-10s  %s  %s\n", e.Time.Local().Format("15:04:05.000"), e.Event, cell(d.Name), what+printable(e.Text))
	return err
}

package firewall

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/user"
	"strconv"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
)

// maxPending is how many requests of one client may wait for their replies.
const maxPending = 64

// ErrTooMany is a client that asks on and on without an answer.
var ErrTooMany = fmt.Errorf("%d requests are not answered, and none was a guest-sync-delimited", maxPending)

// Call is what there is to be known of one request, for an audit log. Nothing that
// goes with a command, as a password, a file's contents or a program's input, is in it.
type Call struct {
	Number  int // of the session, from 1
	Command string
	Allowed bool
	By      string // FILE:LINE that allows it, or that names the channel
}

// Outcome is how a call that was allowed has ended.
type Outcome struct {
	Call
	Result string // one of those below
	Took   time.Duration
}

// Results of calls.
const (
	OK         = "ok"
	Refused    = "error"      // by the agent
	TooLong    = "too-long"   // the reply, which was not let through
	Unanswered = "unanswered" // when the client left or gave up
)

// Session stands between one client and the agent. It is not safe for concurrent
// use. Its memory is bounded by a line each way.
type Session struct {
	// Who has connected.
	Who sys.Cred
	// Rules are asked for at each request. If they say nil, the last ones hold.
	Rules func() *Rules
	// Asked hears of each call before the guest does, Answered how it ended.
	Asked    func(Call)
	Answered func(Outcome)

	rules           *Rules
	up, down        lines
	calls           int
	begun           bool  // the agent was asked for a sync, by the client or by us
	own             int64 // number of our sync that is not answered; 0 if there is none
	queue           []*pending
	toGuest, toHost []byte
	failure         error
	Dropped         int // lines of the guest that nobody has asked for
	Denied          int // requests that were not let through
}

// pending is a request whose reply is still to go to the client.
type pending struct {
	Call
	request
	since time.Time
	local []byte // the reply, when it does not come from the guest
}

// Open begins the session, under the rules that hold now.
func (s *Session) Open(r *Rules) {
	s.rules = r
	s.up.max, s.down.max = r.MaxLine, r.MaxLine
}

func (s *Session) current() *Rules {
	if r := s.Rules(); r != nil {
		s.rules = r
	}
	return s.rules
}

// FromClient takes what the client sends, and returns what goes to the guest and
// what to the client. After an error the client is to be closed.
func (s *Session) FromClient(p []byte) (toGuest, toClient []byte, err error) {
	s.toGuest, s.toHost = nil, nil
	s.up.feed(p, s.ask)
	s.flush()
	return s.toGuest, s.toHost, s.failure
}

// Finish is FromClient for the end of what the client sends: a line may lack its end.
func (s *Session) Finish() (toGuest, toClient []byte, err error) {
	s.toGuest, s.toHost = nil, nil
	if len(s.up.buf) > 0 || s.up.over {
		s.ask(s.up.buf, s.up.over)
		s.up.reset()
	}
	s.flush()
	return s.toGuest, s.toHost, s.failure
}

// FromGuest takes what the guest sends, and returns what goes to the client.
func (s *Session) FromGuest(p []byte) (toClient []byte) {
	s.toGuest, s.toHost = nil, nil
	s.down.feed(p, s.answer)
	s.flush()
	return s.toHost
}

// Close ends the session: what was not answered never will be.
func (s *Session) Close() {
	s.giveUp(len(s.queue))
}

// ask deals with one line of the client.
func (s *Session) ask(line []byte, tooLong bool) {
	text, marked := bytes.CutPrefix(line, []byte{sentinel})
	if s.failure != nil || len(bytes.TrimSpace(text)) == 0 && !tooLong {
		return
	}
	q, err := parseRequest(text)
	if tooLong {
		err = fmt.Errorf("a request of more than %d bytes (max_line of %s)", s.up.max, s.current().Where())
	}
	if err == nil && marked && q.delimited {
		s.giveUp(len(s.queue)) // the client drops all up to the answer
		s.begun, s.own = true, 0
	}
	if len(s.queue) >= maxPending {
		s.failure = ErrTooMany
		return
	}
	p := &pending{request: q, since: time.Now()}
	switch {
	case err != nil:
		s.deny(p, err.Error())
		p.local = refusal("%v", err)
	case !q.isSync:
		s.decide(p)
	}
	s.queue = append(s.queue, p)
	if p.local != nil {
		return
	}
	s.begin()
	if !q.delimited { // the agent answers a sentinel too, which only a sync makes up for
		line = text
	}
	s.toGuest = append(s.toGuest, line...)
}

// decide says whether a request may pass; one that may not has its reply then.
func (s *Session) decide(p *pending) {
	allowed, by := s.current().Decide(s.Who, p.command)
	if !allowed {
		s.deny(p, by)
		p.local = refusal("%s is not allowed for user %s by %s", p.command, userName(s.Who.UID), by)
		return
	}
	s.calls++
	p.Call = Call{Number: s.calls, Command: p.command, Allowed: true, By: by}
	s.Asked(p.Call)
}

func (s *Session) deny(p *pending, by string) {
	s.calls++
	s.Denied++
	s.Asked(Call{Number: s.calls, Command: p.command, By: by})
}

// begin asks for a sync before the first request of a client that does not itself:
// the agent may still have a reply for the client before. It is asked for again
// until it is answered, as an agent that has not opened its terminal hears nothing;
// without a sentinel then, which has a reply of its own.
func (s *Session) begin() {
	switch {
	case !s.begun:
		s.begun, s.own = true, rand.Int64N(1<<53-1)+1
		s.toGuest = append(s.toGuest, sentinel)
	case s.own == 0:
		return
	}
	s.toGuest = fmt.Appendf(s.toGuest, "{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%d}}\n", s.own)
}

// answer deals with one line of the guest. What no request waits for is dropped.
func (s *Session) answer(line []byte, tooLong bool) {
	text, marked := bytes.CutPrefix(line, []byte{sentinel})
	r, ok := parseReply(text)
	switch {
	case tooLong:
		s.tooLong()
	case !ok:
		s.Dropped++
	case marked:
		s.answerSync(line, r)
	case s.own != 0 || !s.answerNext(line, r):
		s.Dropped++
	}
}

// answerSync takes a reply behind a sentinel, which is that to a guest-sync-delimited.
func (s *Session) answerSync(line []byte, r reply) {
	if s.own != 0 && r.is(s.own) {
		s.own = 0
		return
	}
	for i, p := range s.queue {
		if p.delimited && r.is(p.sync) {
			s.giveUp(i)
			s.pass(line)
			return
		}
	}
	s.Dropped++
}

// answerNext takes a reply for the request that waits longest.
func (s *Session) answerNext(line []byte, r reply) bool {
	for i, p := range s.queue {
		if p.isSync && !p.delimited && r.is(p.sync) {
			s.giveUp(i)
			s.pass(line)
			return true
		}
	}
	for len(s.queue) > 0 {
		p := s.queue[0]
		switch {
		case p.local != nil:
			s.flush()
			continue
		case p.delimited, p.isSync && !r.refused:
			return false
		case silent[p.command] && !r.refused: // it has no such reply, so this is the next one's
			s.end(p, OK)
			s.queue = s.queue[1:]
			continue
		case r.refused:
			s.end(p, Refused)
		default:
			s.end(p, OK)
		}
		s.pass(line)
		return true
	}
	return false
}

// pass gives a line to the client as the reply to the first request.
func (s *Session) pass(line []byte) {
	s.toHost = append(s.toHost, line...)
	s.queue = s.queue[1:]
	s.flush()
}

// tooLong answers for a guest whose line was not let through.
func (s *Session) tooLong() {
	s.Dropped++
	if s.own != 0 || len(s.queue) == 0 || s.queue[0].isSync {
		return
	}
	p := s.queue[0]
	s.end(p, TooLong)
	p.local = refusal("the guest's reply to %s has more than %d bytes (max_line of %s)", p.command, s.down.max, s.rules.Where())
}

// flush sends the replies that are ours and whose turn it is.
func (s *Session) flush() {
	for len(s.queue) > 0 && s.queue[0].local != nil {
		s.toHost = append(s.toHost, s.queue[0].local...)
		s.queue = s.queue[1:]
	}
}

// giveUp ends the first n requests without a reply.
func (s *Session) giveUp(n int) {
	for _, p := range s.queue[:n] {
		switch {
		case p.local != nil:
		case silent[p.command]:
			s.end(p, OK)
		default:
			s.end(p, Unanswered)
		}
	}
	s.queue = s.queue[n:]
}

func (s *Session) end(p *pending, result string) {
	if !p.isSync {
		s.Answered(Outcome{p.Call, result, time.Since(p.since)})
	}
}

// silent are the commands that have a reply only when they are refused
// (qga/qapi-schema.json, 'success-response': false).
var silent = map[string]bool{
	"guest-shutdown": true, "guest-suspend-disk": true, "guest-suspend-ram": true, "guest-suspend-hybrid": true,
}

// userName is a user for people.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username + " (" + id + ")"
	}
	return id
}

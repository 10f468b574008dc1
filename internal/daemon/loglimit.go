package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// logBurst is how often a channel may say the same thing in a row.
	logBurst = 5
	// logEvery is how often it may say so from then on.
	logEvery = 10 * time.Second
)

// limiter is a log handler for one channel. Whatever a guest does again and
// again, it cannot fill the log with it: what is said too often is left out and
// counted. Levels below Info are for those who asked for everything.
type limiter struct {
	slog.Handler
	said *said // shared by the handlers made of one
}

// said is how often each message was said. Messages are texts of the program, so
// there are few.
type said struct {
	mu      sync.Mutex
	records map[string]*rate // by message; guarded by mu
}

type rate struct {
	left    int       // of the burst
	since   time.Time // when left was last added to
	leftOut int       // since the last one that was said
}

func limited(log *slog.Logger) *slog.Logger {
	return slog.New(limiter{log.Handler(), &said{records: make(map[string]*rate)}})
}

func (l limiter) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return l.Handler.Handle(ctx, r)
	}
	leftOut, ok := l.said.allow(r.Message, r.Time)
	if !ok {
		return nil
	}
	if leftOut > 0 {
		r = r.Clone()
		r.Add("left_out", leftOut)
	}
	return l.Handler.Handle(ctx, r)
}

func (l limiter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return limiter{l.Handler.WithAttrs(attrs), l.said}
}

func (l limiter) WithGroup(name string) slog.Handler {
	return limiter{l.Handler.WithGroup(name), l.said}
}

// allow says whether a message may be said, and how many like it were not.
func (s *said) allow(message string, now time.Time) (leftOut int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[message]
	if r == nil {
		r = &rate{left: logBurst, since: now}
		s.records[message] = r
	}
	if more := int(now.Sub(r.since) / logEvery); more > 0 {
		r.left = min(logBurst, r.left+more)
		r.since = r.since.Add(time.Duration(more) * logEvery)
	}
	if r.left == 0 {
		r.leftOut++
		return 0, false
	}
	r.left--
	leftOut, r.leftOut = r.leftOut, 0
	return leftOut, true
}

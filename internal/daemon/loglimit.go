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
	said *said              // shared by the handlers made of one
	who  func() []slog.Attr // of whom every line is; so that who is silent needs no text for it; may be nil
}

// said is how often each message was said. Messages are texts of the program, so
// there are few.
type said struct {
	mu    sync.Mutex
	rates []rate // guarded by mu
}

type rate struct {
	message string
	since   int64 // Unix nanoseconds when left was last added to
	left    int32 // of the burst
	leftOut int32 // since the last one that was said
}

func limited(log *slog.Logger, who func() []slog.Attr) *slog.Logger {
	return slog.New(limiter{log.Handler(), &said{}, who})
}

func (l limiter) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return l.named().Handle(ctx, r)
	}
	leftOut, ok := l.said.allow(r.Message, r.Time)
	if !ok {
		return nil
	}
	if leftOut > 0 {
		r = r.Clone()
		r.Add("left_out", leftOut)
	}
	return l.named().Handle(ctx, r)
}

func (l limiter) named() slog.Handler {
	if l.who == nil {
		return l.Handler
	}
	return l.Handler.WithAttrs(l.who())
}

func (l limiter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return limiter{l.named().WithAttrs(attrs), l.said, nil}
}

func (l limiter) WithGroup(name string) slog.Handler {
	return limiter{l.named().WithGroup(name), l.said, nil}
}

// allow says whether a message may be said, and how many like it were not.
func (s *said) allow(message string, now time.Time) (leftOut int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.of(message, now.UnixNano())
	if more := (now.UnixNano() - r.since) / int64(logEvery); more > 0 {
		r.left = int32(min(logBurst, int64(r.left)+more))
		r.since += more * int64(logEvery)
	}
	if r.left == 0 {
		r.leftOut++
		return 0, false
	}
	r.left--
	leftOut, r.leftOut = int(r.leftOut), 0
	return leftOut, true
}

func (s *said) of(message string, now int64) *rate {
	for i := range s.rates {
		if s.rates[i].message == message {
			return &s.rates[i]
		}
	}
	s.rates = append(s.rates, rate{message: message, left: logBurst, since: now})
	return &s.rates[len(s.rates)-1]
}

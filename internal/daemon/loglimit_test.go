package daemon

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		base := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		log := limited(base, nil).With("domid", 1)
		lines := func(want int, what string) {
			t.Helper()
			if n := strings.Count(out.String(), "\n"); n != want {
				t.Errorf("%s: %d lines, want %d:\n%s", what, n, want, &out)
			}
			out.Reset()
		}
		for range 1000 {
			log.Warn("closing", "error", "again")
		}
		lines(logBurst, "the same a thousand times")
		log.Warn("something else")
		limited(base, nil).Warn("closing")
		lines(2, "another message, and another channel")
		for range 100 {
			log.Debug("closing")
		}
		lines(100, "what was asked for")
		time.Sleep(logEvery)
		log.With("channel", "a").Warn("closing")
		if !strings.Contains(out.String(), "left_out=995") || !strings.Contains(out.String(), "domid=1 channel=a") {
			t.Errorf("after a while: %s", &out)
		}
		log.Warn("closing")
		lines(1, "one for each time")
		time.Sleep(time.Hour)
		for range 1000 {
			log.Warn("closing")
		}
		lines(logBurst, "after a long silence")
	})
}

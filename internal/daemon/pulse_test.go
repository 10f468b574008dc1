package daemon_test

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/xenstore"
)

// gate is a stream whose answers can be held up.
type gate struct {
	io.ReadWriteCloser
	mu sync.Mutex
}

func (g *gate) Read(p []byte) (int, error) {
	n, err := g.ReadWriteCloser.Read(p)
	g.mu.Lock()
	defer g.mu.Unlock()
	return n, err
}

// The daemon's pulse beats while its devices' loops go round, stops when they
// hang, though its timers run on, and beats again when they go on.
func TestPulse_isOfTheLoops(t *testing.T) {
	r := newRig(t)
	hv, _ := r.connect(0)
	stream, err := hv.OpenStore(context.Background())
	r.check(err)
	g := &gate{ReadWriteCloser: stream}
	store := xenstore.New(g)
	defer store.Close()
	beats := make(chan struct{}, 1)
	var log syncBuffer
	ready := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- daemon.Run(ctx, daemon.Config{
			Store: store, Hypervisor: hv, RunDir: r.runDir(), Ready: func() { close(ready) },
			Pulse: func() {
				select {
				case beats <- struct{}{}:
				default:
				}
			},
			PulseEvery: time.Millisecond,
			Log:        slog.New(slog.NewTextHandler(&log, nil)),
		})
	}()
	defer func() { cancel(); <-ended }()
	<-ready
	c := r.attach(channel.Spec{Name: "beating"})
	r.boot(c)
	beat := func(within time.Duration) bool {
		select {
		case <-beats:
			return true
		case <-time.After(within):
			return false
		}
	}
	for range 10 {
		if !beat(20 * time.Second) {
			t.Fatal("no beat")
		}
	}
	g.mu.Lock()
	// The round under way may come to its end, and one beat wait to be seen.
	for range 3 {
		beat(200 * time.Millisecond)
	}
	if beat(500 * time.Millisecond) {
		t.Error("it beats while the devices cannot look at their nodes")
	}
	if !strings.Contains(log.String(), "xenstored does not answer") {
		t.Errorf("the log does not say why: %s", log.String())
	}
	g.mu.Unlock()
	for range 10 {
		if !beat(20 * time.Second) {
			t.Fatal("no beat any more")
		}
	}
	if !strings.Contains(log.String(), "progress again") {
		t.Errorf("the log does not say that it goes on: %s", log.String())
	}
}

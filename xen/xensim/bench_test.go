package xensim_test

import (
	"testing"
	"time"

	"github.com/xenchan/xenchan/xen/xensim"
)

// BenchmarkEvent_roundTrip is an event there and one back, across two
// connections.
func BenchmarkEvent_roundTrip(b *testing.B) {
	h, dir := newHost(b, xensim.Config{})
	g := newGuest(b, h, xensim.DomainConfig{Name: "web"})
	front, err := connect(b, dir, g.ID).AllocUnbound(0)
	if err != nil {
		b.Fatal(err)
	}
	defer front.Close()
	back, err := connect(b, dir, 0).BindInterdomain(g.ID, front.Port())
	if err != nil {
		b.Fatal(err)
	}
	defer back.Close()
	// Both ends are served by one goroutine, which is this process's.
	done, left := make(chan struct{}), b.N
	front.Serve(func(error) time.Duration {
		if left--; left > 0 {
			_ = front.Notify()
		} else if left == 0 {
			close(done)
		}
		return 0
	})
	back.Serve(func(error) time.Duration { _ = back.Notify(); return 0 }) // that of the binding is the first
	<-done
}

func BenchmarkEvent_notify(b *testing.B) {
	_, dir := newHost(b, xensim.Config{})
	ch, err := connect(b, dir, 0).AllocUnbound(0)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_ = ch.Notify()
	}
}

func BenchmarkGrant_mapUnmap(b *testing.B) {
	h, dir := newHost(b, xensim.Config{})
	g := newGuest(b, h, xensim.DomainConfig{Name: "web"})
	mem, err := connect(b, dir, g.ID).SharePages(0, 1)
	if err != nil {
		b.Fatal(err)
	}
	back := connect(b, dir, 0)
	for b.Loop() {
		p, err := back.MapGrants(g.ID, mem.Refs()...)
		if err != nil {
			b.Fatal(err)
		}
		_ = p.Close()
	}
}

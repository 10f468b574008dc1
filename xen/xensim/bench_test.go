package xensim_test

import (
	"testing"

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
	back, err := connect(b, dir, 0).BindInterdomain(g.ID, front.Port())
	if err != nil {
		b.Fatal(err)
	}
	_ = back.Wait() // that of the binding
	done := make(chan struct{})
	go func() {
		defer close(done)
		for back.Unmask() == nil && back.Wait() == nil {
			_ = back.Notify()
		}
	}()
	for b.Loop() {
		_ = front.Notify()
		if err := front.Wait(); err != nil {
			b.Fatal(err)
		}
		_ = front.Unmask()
	}
	_ = back.Close()
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

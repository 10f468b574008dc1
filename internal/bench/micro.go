package main

import (
	"testing"

	"github.com/xenchan/xenchan/ring"
)

// micro measures what nothing can be faster than: a copy of memory, and of memory
// through a ring. The other small parts have Go benchmarks of their own.
func micro(r *report) error {
	p := payload(ring.OutSize)
	rate := func(name string, f func(b *testing.B)) {
		result := testing.Benchmark(func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			f(b)
		})
		r.add(name, float64(result.Bytes)*float64(result.N)/result.T.Seconds()/1e6, "MB/s")
	}
	to := make([]byte, len(p))
	rate("memory/copy", func(b *testing.B) {
		for b.Loop() {
			copy(to, p)
		}
	})
	page := make([]byte, ring.PageSize)
	consumer, _, err := ring.Backend(page)
	if err != nil {
		return err
	}
	_, producer, err := ring.Frontend(page)
	if err != nil {
		return err
	}
	rate("memory/ring", func(b *testing.B) {
		for b.Loop() {
			if _, err = producer.Write(p); err == nil {
				var n int
				n, err = consumer.Peek(to)
				consumer.Consume(n)
			}
		}
	})
	return err
}

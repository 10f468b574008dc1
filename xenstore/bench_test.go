package xenstore

import (
	"testing"
)

// BenchmarkRead reads one node over a unix socket: one request after the other,
// and from many goroutines at a time.
func BenchmarkRead(b *testing.B) {
	ctx := b.Context()
	s, err := Open(ctx, listen(b, map[string]string{"/local/domain/5/name": "guest"}))
	ok(b, err)
	defer s.Close()
	read := func() {
		if _, err := s.Read(ctx, "/local/domain/5/name"); err != nil {
			b.Error(err)
		}
	}
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			read()
		}
	})
	b.Run("pipelined", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				read()
			}
		})
	})
}

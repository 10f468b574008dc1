package xenstore

import (
	"net"
	"testing"
)

// BenchmarkRead reads one node over a unix socket: one request after the other,
// and from many goroutines at a time.
func BenchmarkRead(b *testing.B) {
	ctx := b.Context()
	path := b.TempDir() + "/socket"
	l, err := net.Listen("unix", path)
	ok(b, err)
	defer l.Close()
	go func() { // ends with the connection
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		p := &peer{t: b, conn: conn}
		for m, ok := p.next(); ok; m, ok = p.next() {
			p.reply(m, "guest")
		}
	}()
	s, err := Open(ctx, path)
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

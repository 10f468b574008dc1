package xentest

import (
	"context"
	"io"
	"testing"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore/wire"
)

func (s *suite) store(t *testing.T) {
	for _, end := range []struct {
		name string
		hv   xen.Hypervisor
	}{{"Front", s.Front}, {"Back", s.Back}} {
		t.Run(end.name, func(t *testing.T) {
			// Two at once, as each is a stream of its own.
			one, two := openStore(t, end.hv), openStore(t, end.hv)
			for id, stream := range []io.ReadWriter{one, two, one} {
				ask(t, stream, uint32(id+1))
			}
			done := make(chan error, 1)
			go func() { _, err := one.Read(make([]byte, 1)); done <- err }()
			stillWaiting(t, done)
			if err := one.Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
			if err := result(t, done); err == nil {
				t.Error("Close woke Read with data")
			}
			ask(t, two, 9)
		})
	}
	t.Run("Cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if stream, err := s.Back.OpenStore(ctx); err == nil {
			_ = stream.Close()
			t.Error("OpenStore worked with a context that had ended")
		}
	})
}

func openStore(t *testing.T, hv xen.Hypervisor) io.ReadWriteCloser {
	t.Helper()
	stream, err := hv.OpenStore(context.Background())
	if err != nil {
		t.Fatalf("OpenStore: %v", err)
	}
	t.Cleanup(func() { _ = stream.Close() })
	return stream
}

// ask makes a request that every store answers alike.
func ask(t *testing.T, stream io.ReadWriter, id uint32) {
	t.Helper()
	done := make(chan error, 1)
	var got wire.Message
	go func() {
		req := wire.Message{Type: wire.GetDomainPath, ReqID: id, Payload: wire.JoinNUL("5")}
		_, err := stream.Write(wire.Append(nil, req))
		for dec, buf := (wire.Decoder{}), make([]byte, 512); err == nil; {
			var n int
			if n, err = stream.Read(buf); err != nil {
				break
			}
			dec.Feed(buf[:n])
			var ok bool
			if got, ok, err = dec.Next(); ok {
				break
			}
		}
		done <- err
	}()
	if err := result(t, done); err != nil {
		t.Fatalf("store request: %v", err)
	}
	if got.Type != wire.GetDomainPath || got.ReqID != id || string(got.Payload) != "/local/domain/5\x00" {
		t.Errorf("store answered %v %d %q", got.Type, got.ReqID, got.Payload)
	}
}

// A backend that starts again finds the frontend as it left it.
func (s *suite) restart(t *testing.T) {
	front := s.alloc(t)
	back := s.bind(t, front.Port())
	wait(t, back)
	shared := s.share(t, 1)
	old := s.mapped(t, shared.Refs()...)
	fill(old.Bytes(), 4)
	stream := openStore(t, s.Back)
	masked := waiting(back)

	s.Back = s.RestartBack(t)

	if _, err := stream.Read(make([]byte, 1)); err == nil {
		t.Error("the store stream outlived its Hypervisor")
	}
	_ = back.Close() // must do no harm
	wantClosed(t, "Wait across the end of its Hypervisor", result(t, masked))
	_ = old.Close()
	frontWait := waiting(front)
	notify(t, front)
	stillWaiting(t, frontWait)

	again := s.bind(t, front.Port())
	take(t, again)
	notify(t, again)
	if err := result(t, frontWait); err != nil {
		t.Fatalf("Wait of the front: %v", err)
	}
	notify(t, front)
	take(t, again)
	remap := s.mapped(t, shared.Refs()...)
	wantPage(t, "mapped again", remap.Bytes(), 4)
	fill(remap.Bytes(), 5)
	wantPage(t, "written by the new backend", shared.Bytes(), 5)
}

package xensim

import (
	"bytes"
	"errors"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/xen"
)

// rawGuest is a connection past hello that speaks the protocol by hand, or
// does not.
func rawGuest(t testing.TB, dir string, dom xen.DomID) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: filepath.Join(dir, xenSocket), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if errno := ask(t, c, encode(uint32(OpHello), protoVersion, uint32(dom))); errno != 0 {
		t.Fatalf("hello: %v", errno)
	}
	return c
}

// ask sends one packet and returns the errno of the answer. What descriptors
// come with it the kernel discards.
func ask(t testing.TB, c *net.UnixConn, packet []byte) syscall.Errno {
	t.Helper()
	if _, err := c.Write(packet); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, maxMessage)
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	errno, _, err := decode(buf[:n])
	if err != nil {
		t.Fatal(err)
	}
	return syscall.Errno(errno)
}

func startHost(t testing.TB) (*Host, string, xen.DomID) {
	t.Helper()
	dir := t.TempDir()
	h, err := Start(dir, Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	g, err := h.CreateDomain(DomainConfig{Name: "hostile", OnCrash: CrashPreserve})
	if err != nil {
		t.Fatal(err)
	}
	return h, dir, g.ID
}

// usable checks that domain 0 is served, whatever others do.
func usable(t testing.TB, dir string) {
	t.Helper()
	c, err := Connect(t.Context(), dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ch, err := c.AllocUnbound(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSession_endsOnGarbage(t *testing.T) {
	_, dir, _ := startHost(t)
	for name, packet := range map[string][]byte{
		"half a word":       {1, 2},
		"no such op":        encode(99, 1, 2),
		"too few arguments": encode(uint32(OpBindInterdomain), 1),
		"too many":          encode(uint32(OpOpenStore), 1),
		"second hello":      encode(uint32(OpHello), protoVersion, 0),
		"too long":          bytes.Repeat([]byte{0, 0, 0, 1}, maxWords+1),
		"empty":             {},
	} {
		c := rawGuest(t, dir, 0)
		if _, err := c.Write(packet); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if n, err := c.Read(make([]byte, maxMessage)); err == nil {
			t.Errorf("%s: got an answer of %d bytes", name, n)
		} else if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			t.Errorf("%s: the connection goes on", name)
		}
	}
	usable(t, dir)
}

// A client that never reads its answers stops itself and nobody else.
func TestSession_unreadReplies(t *testing.T) {
	_, dir, dom := startHost(t)
	c := rawGuest(t, dir, dom)
	_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	for range 10_000 {
		if _, err := c.Write(encode(uint32(OpAllocUnbound), 0)); err != nil {
			break
		}
	}
	usable(t, dir)
}

func TestSession_limits(t *testing.T) {
	h, dir, dom := startHost(t)
	c := rawGuest(t, dir, dom)
	until := func(packet []byte, most int) syscall.Errno {
		for range most {
			if errno := ask(t, c, packet); errno != 0 {
				t.Fatalf("refused within the limit: %v", errno)
			}
		}
		return ask(t, c, packet)
	}
	if errno := until(encode(uint32(OpAllocUnbound), 0), guestLimits.ports); errno != syscall.ENOSPC {
		t.Errorf("ports: %v, want ENOSPC", errno)
	}
	share := encode(uint32(OpShare), uint32(dom), MaxPages)
	if errno := until(share, guestLimits.grants/MaxPages); errno != syscall.ENOSPC {
		t.Errorf("grants: %v, want ENOSPC", errno)
	}
	refs := []uint32{uint32(dom)}
	for i := range uint32(MaxPages) {
		refs = append(refs, firstRef+i)
	}
	if errno := until(encode(uint32(OpMap), refs...), guestLimits.mapped/MaxPages); errno != syscall.ENOSPC {
		t.Errorf("mapped pages: %v, want ENOSPC", errno)
	}
	conn, err := Connect(t.Context(), dir, dom) // keeps its streams open
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range maxStreams {
		if _, err := conn.OpenStore(t.Context()); err != nil {
			t.Fatalf("stream within the limit: %v", err)
		}
	}
	if _, err := conn.OpenStore(t.Context()); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("streams: %v, want ENOSPC", err)
	}
	for range guestLimits.sessions - 2 {
		rawGuest(t, dir, dom)
	}
	if _, err := Connect(t.Context(), dir, dom); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("connections: %v, want ENOSPC", err)
	}
	usable(t, dir)
	_ = h.DestroyDomain(dom)
	if list := h.Domains(); len(list) != 1 {
		t.Errorf("domains are left: %+v", list)
	}
}

// Nobody may give back, or use, what belongs to another connection.
func TestSession_othersProperty(t *testing.T) {
	h, dir, dom := startHost(t)
	mine, other := rawGuest(t, dir, dom), rawGuest(t, dir, dom)
	for _, packet := range [][]byte{encode(uint32(OpAllocUnbound), 0), encode(uint32(OpShare), 0, 1)} {
		if errno := ask(t, mine, packet); errno != 0 {
			t.Fatal(errno)
		}
	}
	for _, packet := range [][]byte{
		encode(uint32(OpClosePort), 1), encode(uint32(OpUnshare), 1), encode(uint32(OpUnmap), 1),
		encode(uint32(OpMap), uint32(dom), firstRef), // granted to domain 0, not to itself
		encode(uint32(OpAllocUnbound), uint32(xen.FirstReserved)),
		encode(uint32(OpBindInterdomain), 1<<16, 1),
		encode(uint32(OpShare), 0, MaxPages+1), encode(uint32(OpShare), 0, 1<<31),
	} {
		if errno := ask(t, other, packet); errno != syscall.EINVAL {
			t.Errorf("request % x: %v, want EINVAL", packet, errno)
		}
	}
	if d := h.Domains()[1]; d.Ports != 1 || d.Grants != 1 {
		t.Errorf("domain is %+v", d)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add(encode(uint32(OpHello), protoVersion, 0))
	f.Add(encode(uint32(OpMap), 1, 8, 9))
	f.Add([]byte{})
	f.Add([]byte{1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		op, args, err := decodeRequest(b)
		if err != nil {
			if op != 0 || args != nil {
				t.Fatalf("error %v with %v %v", err, op, args)
			}
			return
		}
		if got := encode(uint32(op), args...); !bytes.Equal(got, b) {
			t.Fatalf("% x became % x", b, got)
		}
	})
}

// FuzzSession sends any packets, each a length byte and as many bytes, and
// checks that the host serves others and that nothing is left of it.
func FuzzSession(f *testing.F) {
	packets := func(ps ...[]byte) []byte {
		var b []byte
		for _, p := range ps {
			b = append(append(b, byte(len(p))), p...)
		}
		return b
	}
	f.Add(packets(encode(uint32(OpAllocUnbound), 0), encode(uint32(OpBindInterdomain), 0, 1), encode(uint32(OpClosePort), 1)))
	f.Add(packets(encode(uint32(OpShare), 0, 2), encode(uint32(OpMap), 0, 8, 9, 8), encode(uint32(OpUnshare), 1), encode(uint32(OpUnmap), 2)))
	f.Add(packets(encode(uint32(OpOpenStore)), encode(uint32(OpHello), 1, 0)))
	f.Add(packets([]byte{}, []byte{9}))
	h, dir, _ := startHost(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		c := rawGuest(t, dir, 0)
		go func() { // reads until the end, so that the host never waits for it
			buf := make([]byte, maxMessage)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		}()
		for len(b) > 0 {
			n := min(int(b[0]), len(b)-1)
			if _, err := c.Write(b[1 : 1+n]); err != nil {
				break
			}
			b = b[1+n:]
		}
		_ = c.CloseWrite()
		deadline := time.Now().Add(30 * time.Second)
		for d := h.Domains()[0]; d.Connections+d.Ports+d.Grants+d.Mapped+d.ForeignMaps > 0; d = h.Domains()[0] {
			if time.Now().After(deadline) {
				t.Fatalf("left behind: %+v", d)
			}
			time.Sleep(100 * time.Microsecond)
		}
	})
}

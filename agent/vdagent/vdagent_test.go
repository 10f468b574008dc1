package vdagent

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// agent is the guest's end of a client, played by a test.
type agent struct {
	t *testing.T
	net.Conn
	d decoder
}

func connect(t *testing.T) (*Client, *agent) {
	t.Helper()
	host, guest := net.Pipe()
	t.Cleanup(func() { host.Close(); guest.Close() })
	c := New(host)
	c.Timeout = 5 * time.Second
	return c, &agent{t: t, Conn: guest, d: decoder{r: guest}}
}

// hears is the next message of the client, which must be of a kind.
func (a *agent) hears(kind uint32) []byte {
	m, err := a.d.next()
	if err != nil || m.kind != kind {
		a.t.Errorf("the agent hears message %d, %v; want %d", m.kind, err, kind)
	}
	return m.data
}

func (a *agent) says(kind uint32, data []byte) { a.Write(encode(portClient, message{kind, data})) }

func in(f func()) (wait func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	return func() { <-done }
}

// The bytes are those of spice/vd_agent.h, as spice-vdagentd 0.22.1 takes them.
func TestSetMonitors_bytes(t *testing.T) {
	c, a := connect(t)
	var got []byte
	wait := in(func() {
		got = make([]byte, 8+20+8+8+20+48)
		io.ReadFull(a, got)
		a.says(typeReply, put32(nil, typeMonitors, 1))
	})
	if err := c.SetMonitors(t.Context(), []Monitor{{1920, 1080, 0, 0}, {1280, 1024, 1920, -8}}); err != nil {
		t.Error(err)
	}
	wait()
	want := "01000000" + "1c000000" + "01000000" + "06000000" + "0000000000000000" + "08000000" + "00000000" + "66140000" +
		"01000000" + "44000000" + "01000000" + "02000000" + "0000000000000000" + "30000000" + "02000000" + "01000000" +
		"38040000" + "80070000" + "20000000" + "00000000" + "00000000" + "00040000" + "00050000" + "20000000" + "80070000" + "f8ffffff"
	if hex.EncodeToString(got) != want {
		t.Errorf("%x\nwant\n%s", got, want)
	}
}

func TestSetMonitors_refused(t *testing.T) {
	c, a := connect(t)
	go func() {
		a.hears(typeCapabilities)
		a.hears(typeMonitors)
		a.says(typeReply, put32(nil, typeMonitors, 2))
	}()
	if err := c.SetMonitors(t.Context(), make([]Monitor, 1)); err == nil || !strings.Contains(err.Error(), "error 2") {
		t.Error(err)
	}
}

// An agent that is not there yet, or has half a message of another client, is asked
// again; what an earlier client has left is dropped, wherever it begins.
func TestClipboard_findsItsAnswer(t *testing.T) {
	c, a := connect(t)
	long := strings.Repeat("0123456789", 100_000)
	wait := in(func() {
		old := encode(portClient, message{typeClipboard, append(clipboard(textType), long...)})
		a.hears(typeCapabilities)
		a.hears(typeRequest)
		a.Write(old[len(old)-700:])
		head := make([]byte, chunkHeader+messageHeader)
		io.ReadFull(a, head) // asked again, with a farewell in the name of the one before
		if get32(head, 0) != portServer || get32(head, 3) != typeDisconnected {
			t.Errorf("%x", head)
		}
		a.hears(typeCapabilities)
		if got := a.hears(typeRequest); !bytes.Equal(got, clipboard(textType)) {
			t.Errorf("%x", got)
		}
		a.says(typeCapabilities, put32(nil, 0, 1<<capByDemand))
		a.Write(put32(nil, portServer, 4, 7)) // not for clients
		one := put32(put32(nil, portClient, uint32(messageHeader+8+len(long))), protocol, typeClipboard, 0, 0, uint32(8+len(long)))
		a.Write(append(append(one, clipboard(textType)...), long...)) // in one chunk, as Linux agents do
	})
	text, err := c.Clipboard(t.Context())
	if err != nil || string(text) != long {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	wait()
}

func TestClipboard_lies(t *testing.T) {
	for name, c := range map[string]struct {
		say  []byte
		want error
	}{
		"none":       {encode(portClient, message{typeClipboard, clipboard(0)}), ErrNoClipboard},
		"an image":   {encode(portClient, message{typeClipboard, clipboard(2, 1)}), ErrNoClipboard},
		"not text":   {encode(portClient, message{typeClipboard, append(clipboard(textType), 0xC3)}), ErrNotText},
		"short":      {encode(portClient, message{typeClipboard, put32(nil, 0)}), ErrOutOfStep},
		"two in one": {put32(nil, portClient, maxChunk, protocol, typeClipboard, 0, 0, maxChunk, 0, 0), ErrNoAnswer},
		"too large":  {put32(nil, portClient, maxMessage+1, protocol, typeClipboard, 0, 0, maxMessage+1-messageHeader), ErrNoAnswer},
		"a lie":      {bytes.Repeat([]byte{1}, 100_000), ErrNoAnswer},
		"silence":    {nil, ErrNoAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			client, a := connect(t)
			client.Timeout = 700 * time.Millisecond
			go io.Copy(io.Discard, a)
			go a.Write(c.say)
			if text, err := client.Clipboard(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("%q, %v, want %v", text, err, c.want)
			}
		})
	}
	client, _ := connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Clipboard(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Text is there as long as the client is, for whoever pastes it, as text alone.
func TestOffer(t *testing.T) {
	c, a := connect(t)
	text := strings.Repeat("ä", 5000)
	pasted := 0
	wait := in(func() {
		a.hears(typeCapabilities)
		a.says(typeCapabilities, put32(nil, 0, 1<<capByDemand))
		if got := a.hears(typeGrab); !bytes.Equal(got, clipboard(textType)) {
			t.Errorf("%x", got)
		}
		a.says(typeGrab, put32(nil, 1, textType)) // of what is marked with the mouse
		a.says(typeRequest, clipboard(2))
		if got := a.hears(typeClipboard); !bytes.Equal(got, clipboard(0)) {
			t.Errorf("an image: %x", got)
		}
		a.says(typeRequest, clipboard(textType))
		if got := a.hears(typeClipboard); string(got) != string(clipboard(textType))+text {
			t.Errorf("%.20x", got)
		}
		a.says(typeGrab, clipboard(textType))
	})
	offered := false
	err := c.Offer(t.Context(), []byte(text), func() { offered = true }, func() bool { pasted++; return true })
	if !errors.Is(err, ErrTaken) || pasted != 2 || !offered {
		t.Errorf("%v, pasted %d times", err, pasted)
	}
	wait()
	go c.Close() // has nothing to say: the text is the guest's
	if n, err := a.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// A client that leaves while its text is offered says so, or who pastes would wait.
func TestOffer_leaves(t *testing.T) {
	c, a := connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		a.hears(typeCapabilities)
		a.says(typeCapabilities, put32(nil, 0, 1<<capByDemand))
		a.hears(typeGrab)
		cancel()
	}()
	if err := c.Offer(ctx, nil, nil, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	go c.Close()
	head := make([]byte, chunkHeader+messageHeader)
	if _, err := io.ReadFull(a, head); err != nil || get32(head, 0) != portServer || get32(head, 3) != typeDisconnected {
		t.Errorf("%x, %v", head, err)
	}
	for _, bad := range [][]byte{{0xFF}, make([]byte, MaxClipboard+1)} {
		if err := c.Offer(t.Context(), bad, nil, nil); err == nil {
			t.Errorf("%d bytes were offered", len(bad))
		}
	}
}

// What is encoded is decoded, in chunks of any size, behind anything that holds no
// such message.
func TestDecoder_property(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		kind := rapid.Uint32Range(1, 16).Draw(r, "kind")
		data := rapid.SliceOfN(rapid.Byte(), 0, 5000).Draw(r, "data")
		junk := rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(r, "junk")
		stream := append(junk, encode(portClient, message{kind, data})...)
		second := put32(nil, protocol, kind, 0, 0, uint32(len(data)))
		for rest := append(second, data...); len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(r, "chunk")
			stream = append(put32(stream, portServer, 1), 'x')
			stream = append(put32(stream, portClient, uint32(n)), rest[:n]...)
			rest = rest[n:]
		}
		d := decoder{r: bytes.NewReader(stream)}
		for i, read := range []func() (message, error){func() (message, error) { return d.sync(kind) }, d.next} {
			if m, err := read(); err != nil || m.kind != kind || !bytes.Equal(m.data, data) {
				r.Fatalf("message %d: %d, %d bytes, %v; want %d, %d bytes", i, m.kind, len(m.data), err, kind, len(data))
			}
		}
		if m, err := d.next(); err != io.EOF {
			r.Fatalf("then %+v, %v", m, err)
		}
	})
}

func TestDecoder_refuses(t *testing.T) {
	for name, c := range map[string]struct {
		stream []byte
		want   error
	}{
		"larger than any":  {put32(nil, portClient, messageHeader, protocol, typeGrab, 0, 0, maxMessage), ErrTooLarge},
		"two in one chunk": {put32(nil, portClient, 2*messageHeader, protocol, typeGrab, 0, 0, 0, protocol, typeGrab, 0, 0, 0), ErrOutOfStep},
		"another protocol": {put32(nil, portClient, messageHeader, 2, typeGrab, 0, 0, 0), ErrOutOfStep},
		"another port":     {put32(nil, 3, messageHeader, protocol, typeGrab, 0, 0, 0), ErrOutOfStep},
		"an empty chunk":   {put32(nil, portClient, 0), ErrOutOfStep},
		"a huge chunk":     {put32(nil, portServer, maxMessage+1), ErrOutOfStep},
	} {
		d := decoder{r: bytes.NewReader(c.stream)}
		if m, err := d.next(); err != c.want {
			t.Errorf("%s: %+v, %v, want %v", name, m, err, c.want)
		}
	}
}

// Any bytes end in an error, and are no message that is larger than allowed, nor take
// more memory than there are bytes.
func FuzzDecoder(f *testing.F) {
	f.Add(encode(portClient, message{typeClipboard, make([]byte, 5000)}), true)
	f.Add(put32(nil, portClient, maxMessage, protocol, typeClipboard, 0, 0, maxMessage-messageHeader), true)
	f.Add(put32(nil, portServer, 4, 0, portClient, 0), false)
	f.Fuzz(func(t *testing.T, stream []byte, sync bool) {
		d := decoder{r: bytes.NewReader(stream)}
		for first := sync; ; first = false {
			read := d.next
			if first {
				read = func() (message, error) { return d.sync(typeClipboard) }
			}
			m, err := read()
			if cap(d.partial) > 4*len(stream)+piece || len(m.data) > len(stream) {
				t.Fatalf("%d bytes for a stream of %d", cap(d.partial), len(stream))
			}
			if err != nil {
				return
			}
		}
	})
}

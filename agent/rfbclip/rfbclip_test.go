package rfbclip

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// ends is both ends of a channel, and its two streams for those who misuse it.
func ends(t *testing.T) (s *Server, c *Client, host, guest net.Conn) {
	t.Helper()
	host, guest = net.Pipe()
	t.Cleanup(func() { host.Close(); guest.Close() })
	return NewServer(host), NewClient(guest), host, guest
}

func in(f func()) (wait func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	return func() { <-done }
}

// The bytes are those of RFC 6143, from both ends.
func TestHandshake_bytes(t *testing.T) {
	s, _, _, guest := ends(t)
	wait := in(func() {
		got := make([]byte, 12+2+4+24+9)
		io.ReadFull(guest, got)
		want := "524642203030332e3030380a" + "0101" + "00000000" + "00000000" + "20180001" + "00ff00ff00ff" + "100800" + "000000" + "00000009" + hex.EncodeToString([]byte("clipboard"))
		if hex.EncodeToString(got) != want {
			t.Errorf("the server says %x, want %s", got, want)
		}
		guest.Write([]byte("RFB 003.008\n\x01\x01"))
		text := make([]byte, 8+2)
		io.ReadFull(guest, text)
		if hex.EncodeToString(text) != "0300000000000002"+"e40a" {
			t.Errorf("%x", text)
		}
		// As a viewer goes on: format, encodings, an update, a key, the pointer; then text.
		guest.Write(append([]byte{0, 19: 0}, 2, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1))
		guest.Write([]byte{3, 9: 0})
		guest.Write([]byte{4, 7: 0})
		guest.Write([]byte{5, 5: 0})
		guest.Write([]byte{6, 0, 0, 0, 0, 0, 0, 2, 'h', 0xE4})
	})
	if err := errors.Join(s.Greet(), s.Send("ä\r\n")); err != nil {
		t.Error(err)
	}
	if text, err := s.Next(); text != "hä" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	wait()
}

// A server that goes step by step, as others do, and has a picture and messages of its own.
func TestClient_servers(t *testing.T) {
	_, c, host, _ := ends(t)
	expect := func(want string) {
		got := make([]byte, len(want))
		if io.ReadFull(host, got); string(got) != want {
			t.Errorf("the client says %q, want %q", got, want)
		}
	}
	wait := in(func() {
		io.WriteString(host, "login: RFB 003.RFB 003.008\n")
		expect("RFB 003.008\n")
		host.Write([]byte{3, 2, 16, 1})
		expect("\x01")
		host.Write(make([]byte, 4))
		expect("\x01")
		host.Write(append([]byte{4, 0, 3, 0, 19: 0}, 0, 0, 0, 3, 'v', 'n', 'c'))
		host.Write([]byte{2, 1, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6}) // a bell and a colour
		host.Write([]byte{3, 0, 0, 0, 0, 0, 0, 1, 0xFC})
		expect("\x06\x00\x00\x00\x00\x00\x00\x01\xdf")
	})
	if _, greeted, err := c.Next(); !greeted || err != nil {
		t.Errorf("%v, %v", greeted, err)
	}
	if text, _, err := c.Next(); text != "ü" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if err := c.Send("ß"); err != nil {
		t.Error(err)
	}
	wait()
	for _, bad := range []string{"\u20ac", "a\x00b"} {
		if err := c.Send(bad); !errors.Is(err, ErrNotLatin) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := c.Send(strings.Repeat("x", MaxText+1)); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
}

// Whatever a host's program has left when it ended, the next one finds the guest; and
// whatever the guest has said to nobody, the host's program finds the answer.
func TestHandshake_afterAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		half := func(whole []byte) []byte { return whole[:rapid.IntRange(0, len(whole)).Draw(t, "of it")] }
		text := strings.Repeat("RFB 003.008\n", rapid.IntRange(1, 30).Draw(t, "long"))
		cut, err := encode(serverCutText, text)
		if err != nil {
			t.Fatal(err)
		}
		paste := append([]byte{clientCutText}, cut[1:]...)
		before := append(half(append(bytes.Clone(hello), cut...)), hello...)
		conn := &tape{Reader: bytes.NewReader(append(bytes.Clone(before), 3, 0, 0, 0, 0, 0, 0, 2, 'h', 'i'))}
		c := NewClient(conn)
		last, greetings := "", 0
		for {
			text, greeted, err := c.Next()
			if err != nil {
				break
			}
			if greeted {
				greetings++
				last = ""
			} else {
				last = text
			}
		}
		if last != "hi" || greetings == 0 {
			t.Fatalf("after %q the client has %q", before, last)
		}
		stale := half(append(bytes.Clone(clientHello), paste...))
		s := NewServer(&tape{Reader: bytes.NewReader(append(append(bytes.Clone(stale), clientHello...), 6, 0, 0, 0, 0, 0, 0, 2, 'h', 'o'))})
		if err := s.Greet(); err != nil {
			t.Fatal(err)
		}
		for last = ""; ; {
			text, err := s.Next()
			if err != nil {
				break
			}
			last = text
		}
		if last != "ho" {
			t.Fatalf("after %q the server has %q", stale, last)
		}
	})
}

// tape is a stream whose other end says what it says.
type tape struct {
	io.Reader
	bytes.Buffer
}

func (t *tape) Read(p []byte) (int, error) { return t.Reader.Read(p) }

func TestClient_refusesLies(t *testing.T) {
	for what, said := range map[string]string{
		"a password":  version + "\x01\x02",
		"no types":    version + "\x00\x00\x00\x00\x04nope",
		"a refusal":   version + "\x01\x01\x00\x00\x00\x01",
		"a long name": version + "\x01\x01\x00\x00\x00\x00" + strings.Repeat("\x00", 20) + "\xff\xff\xff\xff",
		"a long text": string(hello) + "\x03\x00\x00\x00\x01\x00\x00\x01",
		"a picture":   string(hello) + "\x00\x00\x00\x01",
	} {
		c := NewClient(&tape{Reader: strings.NewReader(said)})
		for {
			text, _, err := c.Next()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Errorf("%s: %v", what, err)
				}
				break
			}
			if text != "" {
				t.Errorf("%s: %q", what, text)
			}
		}
	}
	s := NewServer(&tape{Reader: strings.NewReader(string(clientHello) + "\x06\x00\x00\x00\xff\xff\xff\xff")})
	if err := s.Greet(); err != nil {
		t.Error(err)
	}
	if text, err := s.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("%q, %v", text, err)
	}
}

// Any bytes of the other end: texts that are bounded, and the next handshake is found.
func FuzzEnds(f *testing.F) {
	f.Add([]byte(version + "\x01\x01"))
	f.Add(append(bytes.Clone(hello), 3, 0, 0, 0, 0, 0, 0, 2, 'h', 'i', 2, 1))
	f.Add([]byte("login: \r\n\xff\x06\x00\x00\x00\x00\x00\x00\x03abc"))
	f.Add([]byte("\x02\x00\xff\xff\x00\x03\x04\x05"))
	f.Fuzz(func(t *testing.T, said []byte) {
		client := NewClient(&tape{Reader: io.MultiReader(bytes.NewReader(said), bytes.NewReader(hello))})
		greeted := false
		for {
			text, g, err := client.Next()
			if greeted = greeted || g; err != nil {
				break
			}
			if len(text) > 2*len(said) {
				t.Fatalf("%d bytes of text of %d", len(text), len(said))
			}
		}
		if !greeted {
			t.Errorf("after %q a greeting was not seen", said)
		}
		server := NewServer(&tape{Reader: io.MultiReader(bytes.NewReader(said), bytes.NewReader(clientHello))})
		if err := server.Greet(); err != nil {
			t.Fatalf("after %q the answer was not seen: %v", said, err)
		}
		for {
			text, err := server.Next()
			if err != nil {
				break
			}
			if len(text) > 2*len(said) {
				t.Fatalf("%d bytes of text of %d", len(text), len(said))
			}
		}
	})
}

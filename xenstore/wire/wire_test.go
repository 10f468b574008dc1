package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// The exchange on the wire, byte by byte.
func TestAppend_bytes(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Log("big endian host: the header differs")
		return
	}
	got := Append([]byte("x"), Message{Type: Read, ReqID: 7, TxID: 3, Payload: JoinNUL("domid")})
	want := "x\x02\x00\x00\x00\x07\x00\x00\x00\x03\x00\x00\x00\x06\x00\x00\x00domid\x00"
	if string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func drawMessage(t *rapid.T) Message {
	return Message{
		Type:    Type(rapid.Uint32Range(0, 30).Draw(t, "type")),
		ReqID:   rapid.Uint32().Draw(t, "id"),
		TxID:    rapid.Uint32().Draw(t, "tx"),
		Payload: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload"),
	}
}

// However a stream is cut, the same messages come out.
func TestDecoder_anyCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want, got []Message
		var stream []byte
		for range rapid.IntRange(0, 8).Draw(t, "messages") {
			m := drawMessage(t)
			want = append(want, m)
			stream = Append(stream, m)
		}
		tail := rapid.SliceOfN(rapid.Just(byte(0)), 0, HeaderSize-1).Draw(t, "tail")
		stream = append(stream, tail...)
		var d Decoder
		for len(stream) > 0 {
			n := rapid.IntRange(1, len(stream)).Draw(t, "cut")
			d.Feed(stream[:n])
			clear(stream[:n]) // the bytes were copied
			stream = stream[n:]
			for {
				m, ok, err := d.Next()
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					break
				}
				got = append(got, m)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		if d.Buffered() != len(tail) {
			t.Fatalf("%d bytes buffered, want %d", d.Buffered(), len(tail))
		}
	})
}

// A payload belongs to the caller: neither later bytes nor its own growth touch others.
func TestDecoder_payloadsAreSeparate(t *testing.T) {
	var d Decoder
	d.Feed(Append(Append(nil, Message{Payload: []byte("one")}), Message{Payload: []byte("two")}))
	one, _, _ := d.Next()
	_ = append(one.Payload, "xxxxxxxxxxxxxxxxxxxxxx"...)
	two, _, _ := d.Next()
	d.Feed(bytes.Repeat([]byte{0xff}, 64))
	if string(one.Payload) != "one" || string(two.Payload) != "two" {
		t.Errorf("got %q and %q", one.Payload, two.Payload)
	}
}

func TestDecoder_sizes(t *testing.T) {
	head := func(n uint32) []byte {
		b := Append(nil, Message{Type: Write})
		binary.NativeEndian.PutUint32(b[12:], n)
		return b
	}
	for _, c := range []struct {
		max, n uint32
		ok     bool
	}{
		{0, 4096, true},
		{0, 4097, false},
		{0, ^uint32(0), false},
		{16 << 20, 16 << 20, true},
		{16 << 20, 16<<20 + 1, false},
		{10, 11, false},
	} {
		d := Decoder{Max: c.max}
		d.Feed(head(c.n))
		_, found, err := d.Next()
		if found || (err == nil) != c.ok {
			t.Errorf("length %d, limit %d: %v, %v", c.n, c.max, found, err)
		}
		if c.ok {
			continue
		}
		size, isSize := errors.AsType[*SizeError](err)
		if !isSize || size.Len != c.n || size.Type != Write {
			t.Errorf("got %#v", err)
		}
		d.Feed(Append(nil, Message{})) // nothing comes after, and nothing is kept
		if _, found, again := d.Next(); found || again != err || d.Buffered() != 0 {
			t.Errorf("afterwards %v, %v, %d bytes", found, again, d.Buffered())
		}
	}
}

func TestDecoder_dropsLargeBuffers(t *testing.T) {
	d := Decoder{Max: 1 << 20}
	d.Feed(Append(nil, Message{Payload: make([]byte, 1<<20)}))
	if _, found, err := d.Next(); !found || err != nil {
		t.Fatal(found, err)
	}
	if cap(d.buf) > keepBuffer {
		t.Errorf("kept %d bytes", cap(d.buf))
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add(Append(nil, Message{Type: Read, ReqID: 1, Payload: JoinNUL("/a")}), uint8(0))
	f.Add(Append(Append(nil, Message{Type: Error}), Message{Type: WatchEvent, Payload: []byte("x")}), uint8(6))
	f.Add(bytes.Repeat([]byte{0xff}, 20), uint8(3))
	f.Add([]byte{}, uint8(1))
	f.Fuzz(func(t *testing.T, stream []byte, chunk uint8) {
		var d Decoder
		var back []byte
		var failed error
		rest := stream
		for len(rest) > 0 {
			n := min(int(chunk)+1, len(rest))
			d.Feed(rest[:n])
			rest = rest[n:]
			for {
				m, found, err := d.Next()
				if (err != nil || !found) && !reflect.DeepEqual(m, Message{}) {
					t.Fatalf("a message besides %v, %v", found, err)
				}
				if failed = err; err != nil || !found {
					break
				}
				if len(m.Payload) > MaxPayload {
					t.Fatalf("a payload of %d bytes", len(m.Payload))
				}
				back = Append(back, m)
			}
		}
		if !bytes.HasPrefix(stream, back) {
			t.Fatalf("%q does not begin with %q", stream, back)
		}
		if failed == nil && len(back)+d.Buffered() != len(stream) {
			t.Fatalf("%d bytes fed, %d returned, %d buffered", len(stream), len(back), d.Buffered())
		}
	})
}

func FuzzSplitNUL(f *testing.F) {
	for _, s := range []string{"", "\x00", "a\x00", "a", "a\x00b\x00", "\x00\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		parts, found := SplitNUL(p)
		if !found {
			if parts != nil || len(p) == 0 || p[len(p)-1] == 0 {
				t.Fatalf("SplitNUL(%q) = %q, false", p, parts)
			}
			return
		}
		if back := JoinNUL(parts...); !bytes.Equal(back, p) {
			t.Fatalf("%q became %q", p, back)
		}
		if strings.Contains(strings.Join(parts, ""), "\x00") {
			t.Fatalf("a NUL is left in %q", parts)
		}
	})
}

func TestErrnos(t *testing.T) {
	for _, e := range errnos {
		if ErrnoOf(e.name) != e.errno || ErrnoName(e.errno) != e.name {
			t.Errorf("%s is %v and back %s", e.name, ErrnoOf(e.name), ErrnoName(e.errno))
		}
	}
	if got := ErrnoOf("EWHAT"); got != syscall.EINVAL {
		t.Errorf("unknown name gave %v", got)
	}
	if got := ErrnoName(syscall.ELOOP); got != "EINVAL" {
		t.Errorf("unknown errno gave %s", got)
	}
}

func TestType_string(t *testing.T) {
	if got := GetDomainPath.String() + " " + Type(99).String(); got != "GET_DOMAIN_PATH type 99" {
		t.Errorf("got %s", got)
	}
}

// Package rfbclip is Xen's protocol for a shared clipboard, both ends: a [Server] on
// the host and a [Client] in the guest pass text over a channel.
//
// The protocol is a draft of 2014, "Clipboard sharing protocol" 0.1 in Xen's wiki: RFB
// 3.8 (RFC 6143) without a picture. It begins with a handshake, once, while a channel
// tells the guest nothing of clients that come and go on the host. So a server says all
// its lines of the handshake at once, and both ends know a handshake of the other
// wherever it begins, also within a message that was broken off.
//
// Texts are ISO 8859-1, with line feeds. Nothing here waits for a time or ends by
// itself: that is up to the streams.
package rfbclip

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Channel is the name under which the protocol is registered, in xen-pv-channel(7).
const Channel = "org.xenproject.guest.clipboard.0.1"

// MaxText is the longest text in bytes that goes either way.
const MaxText = 16 << 20

// maxName bounds a server's name.
const maxName = 4 << 10

// version is RFB 3.8's line, the same from both ends (RFC 6143, 7.1.1).
const version = "RFB 003.008\n"

// Messages (RFC 6143, 7.5 and 7.6).
const (
	setPixelFormat     = 0
	setEncodings       = 2
	updateRequest      = 3
	keyEvent           = 4
	pointerEvent       = 5
	clientCutText      = 6
	setColourMap       = 1
	bell               = 2
	serverCutText      = 3
	noSecurity         = 1
	cutTextHead        = 7 // after its type: three of padding, u32 length
	pixelFormatAndSize = 2 + 2 + 16
)

// errOutOfStep is what cannot be the protocol. The stream can go on with a handshake.
var errOutOfStep = errors.New("not Xen's clipboard protocol")

// Errors that a caller can tell apart.
var (
	// ErrTooLong is a text longer than MaxText.
	ErrTooLong = fmt.Errorf("the text has more than %d MiB, which do not go through a clipboard", MaxText>>20)
	// ErrNotLatin is text with characters that the protocol does not have.
	ErrNotLatin = errors.New("the text has characters outside ISO 8859-1, which is all that RFB has")
)

// hello is all that a server says before messages: its version; the security types, which
// are one, None; that this went well; and a picture of 0x0 pixels in a valid format.
var hello = []byte(version + "\x01\x01" + "\x00\x00\x00\x00" +
	"\x00\x00\x00\x00" + "\x20\x18\x00\x01\x00\xff\x00\xff\x00\xff\x10\x08\x00\x00\x00\x00" + "\x00\x00\x00\x09clipboard")

// Where a handshake is looked for within a text: no text has these bytes.
var (
	serverBegins = hello[:len(version)+6]
	clientHello  = []byte(version + "\x01\x01") // its version, None, and that others may stay
)

// encode is a text as a message. It has no NUL, so that no text is a handshake.
func encode(kind byte, text string) ([]byte, error) {
	m := []byte{kind, 0, 0, 0, 0, 0, 0, 0}
	for _, r := range strings.ReplaceAll(text, "\r\n", "\n") {
		if r == 0 || r > 0xFF {
			return nil, ErrNotLatin
		}
		m = append(m, byte(r))
	}
	if len(m)-8 > MaxText {
		return nil, ErrTooLong
	}
	binary.BigEndian.PutUint32(m[4:], uint32(len(m)-8))
	return m, nil
}

// decode is the text of a message.
func decode(latin []byte) string {
	var b strings.Builder
	for _, c := range latin {
		b.WriteRune(rune(c))
	}
	return b.String()
}

// errHandshake is a handshake of the other end instead of what was expected.
var errHandshake = errors.New("a handshake")

// reader reads messages, and sees a handshake within them.
type reader struct {
	r      *bufio.Reader
	begins []byte // how one begins
	tail   []byte // what was read last, since one
}

func (r *reader) readByte() (byte, error) {
	c, err := r.r.ReadByte()
	if err == nil {
		if len(r.tail) == cap(r.tail) {
			r.tail = append(make([]byte, 0, 4<<10), r.tail[max(0, len(r.tail)-len(r.begins)):]...)
		}
		r.tail = append(r.tail, c)
	}
	return c, err
}

// ends reports whether mark was read last.
func (r *reader) ends(mark []byte) bool {
	if !bytes.HasSuffix(r.tail, mark) {
		return false
	}
	r.tail = r.tail[:0]
	return true
}

// find skips everything up to the end of one of marks, which may have been read in part,
// and returns that one's length.
func (r *reader) find(marks ...[]byte) (int, error) {
	for {
		for _, m := range marks {
			if r.ends(m) {
				return len(m), nil
			}
		}
		if _, err := r.readByte(); err != nil {
			return 0, err
		}
	}
}

// take reads n bytes of a message into memory that grows with them.
func (r *reader) take(n int) ([]byte, error) {
	var got []byte
	for len(got) < n {
		c, err := r.readByte()
		if err != nil {
			return nil, err
		}
		got = append(got, c)
		if r.ends(r.begins) {
			return nil, errHandshake
		}
	}
	return got, nil
}

func (r *reader) skip(n int) error {
	_, err := r.take(n)
	return err
}

// cutText is what follows the type of a text.
func (r *reader) cutText() (string, error) {
	head, err := r.take(cutTextHead)
	if err != nil {
		return "", err
	}
	n := binary.BigEndian.Uint32(head[3:])
	if n > MaxText {
		return "", fmt.Errorf("%w: a text of %d bytes", errOutOfStep, n)
	}
	text, err := r.take(int(n))
	return decode(text), err
}

// count is what precedes as many things.
func (r *reader) count(size int) (int, error) {
	b, err := r.take(size)
	n := 0
	for _, c := range b {
		n = n<<8 | int(c)
	}
	return n, err
}

// writeText is encode to a stream.
func writeText(w io.Writer, kind byte, text string) error {
	m, err := encode(kind, text)
	if err == nil {
		_, err = w.Write(m)
	}
	return err
}

// Package mdata is both ends of the metadata protocol of SmartOS, version 2, with
// which a guest asks its host for values by name over a serial line: what cloud-init
// (DataSourceSmartOS) and the programs of mdata-client speak. One line is one
// request or one answer:
//
//	NEGOTIATE V2                                  V2_OK
//	(an empty line)                               invalid command
//	V2 LENGTH CRC32 ID GET BASE64(key)            V2 LENGTH CRC32 ID SUCCESS BASE64(value)
//	V2 … ID KEYS                                  V2 … ID NOTFOUND
//	V2 … ID PUT BASE64(BASE64(key) BASE64(value)) V2 … ID FAILURE BASE64(reason)
//	V2 … ID DELETE BASE64(key)
//
// The length and the checksum are those of the text from ID on. A line that is
// broken gets no answer: its sender asks again, and begins with an empty line,
// whose answer tells that both ends are in step.
//
// Each end takes the other for hostile: lines are bounded, and whatever is not for
// it is passed over.
//
// Protocol: https://eng.tritondatacenter.com/mdata/protocol.html; what servers and
// clients make of it: DataSourceSmartOS.py of cloud-init.
package mdata

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
)

// Bounds, in bytes.
const (
	MaxKey   = 256     // of a name
	MaxValue = 1 << 20 // of a value that a server gives
	MaxPut   = 32 << 10

	maxRequest = 64 << 10
	maxAnswer  = MaxValue/3*4 + 1<<10
	maxID      = 32
)

// Channel is the name under which the host of this project offers the protocol.
const Channel = "org.xenchan.config.0"

// ReadyKey is what a guest of this project puts to say that it is configured: "ok",
// or why not.
const ReadyKey = "xenchan:configured"

// What is wrong with a line that is no frame.
var (
	errTooLong  = errors.New("a line that is too long")
	errNoFrame  = errors.New("a line that is no request")
	errLength   = errors.New("a frame with a wrong length")
	errChecksum = errors.New("a frame with a wrong checksum")
	errPayload  = errors.New("a frame whose payload is not base64")
)

// The words of frames.
const (
	wordGet    = "GET"
	wordKeys   = "KEYS"
	wordPut    = "PUT"
	wordDelete = "DELETE"

	wordSuccess  = "SUCCESS"
	wordNotFound = "NOTFOUND"
	wordFailure  = "FAILURE"
)

// Lines without a frame.
const (
	lineInvalid   = "invalid command"
	lineNegotiate = "NEGOTIATE V2"
	lineV2        = "V2_OK"
	lineFailure   = "FAILURE"
)

// frame is a request or an answer.
type frame struct {
	id      string // 1 to 32 lower hexadecimal digits, which the client chooses
	word    string
	payload []byte // decoded
}

// appendTo appends the line of f.
func (f frame) appendTo(b []byte) []byte {
	body := f.id + " " + f.word
	if len(f.payload) > 0 {
		body += " " + base64.StdEncoding.EncodeToString(f.payload)
	}
	b = append(b, "V2 "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = fmt.Appendf(b, " %08x ", crc32.ChecksumIEEE([]byte(body)))
	return append(append(b, body...), '\n')
}

// parse reads a line without its end.
func parse(line []byte) (frame, error) {
	rest, ok := bytes.CutPrefix(line, []byte("V2 "))
	length, rest, ok2 := bytes.Cut(rest, []byte(" "))
	sum, body, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok || !ok2 || !ok3 {
		return frame{}, errNoFrame
	}
	if n, err := strconv.ParseUint(string(length), 10, 31); err != nil || int(n) != len(body) {
		return frame{}, errLength
	}
	if n, err := strconv.ParseUint(string(sum), 16, 32); err != nil || uint32(n) != crc32.ChecksumIEEE(body) {
		return frame{}, errChecksum
	}
	id, rest, _ := bytes.Cut(body, []byte(" "))
	if len(id) == 0 || len(id) > maxID || len(bytes.Trim(id, "0123456789abcdef")) > 0 {
		return frame{}, errNoFrame
	}
	word, payload, _ := bytes.Cut(rest, []byte(" "))
	data, err := decode(payload)
	if err != nil || len(word) == 0 {
		return frame{}, errPayload
	}
	return frame{string(id), string(word), data}, nil
}

func decode(text []byte) ([]byte, error) {
	data := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(data, text)
	return data[:n], err
}

// encodePut is the payload of a PUT.
func encodePut(key string, value []byte) []byte {
	return []byte(base64.StdEncoding.EncodeToString([]byte(key)) + " " + base64.StdEncoding.EncodeToString(value))
}

func decodePut(payload []byte) (key string, value []byte, err error) {
	k, v, ok := bytes.Cut(payload, []byte(" "))
	name, err := decode(k)
	if err == nil {
		value, err = decode(v)
	}
	if !ok || err != nil {
		return "", nil, errPayload
	}
	return string(name), value, nil
}

// CheckKey says why key cannot be the name of a value.
func CheckKey(key string) error {
	switch {
	case key == "":
		return errors.New("a key has a name")
	case len(key) > MaxKey:
		return fmt.Errorf("a key has at most %d bytes", MaxKey)
	case bytes.ContainsFunc([]byte(key), func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("key %q: give letters, digits and signs, without blanks", key)
	}
	return nil
}

// readLine reads a line of at most limit bytes and returns it without its end. A
// longer one is passed over and is [errTooLong], after which one can go on. The line
// is valid until the next read.
func readLine(r *bufio.Reader, line []byte, limit int) ([]byte, error) {
	line = line[:0]
	long := false
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit+len("\r\n") {
			line, long = line[:0], true
		}
		if !long {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil:
			return line, err
		case long:
			return line, errTooLong
		default:
			// A terminal that is not raw puts a carriage return there.
			return bytes.TrimRight(line, "\r\n"), nil
		}
	}
}

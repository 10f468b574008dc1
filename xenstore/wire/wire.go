// Package wire is the codec of the xenstore protocol: it turns messages into
// bytes and bytes into messages, and never reads or writes a stream itself.
//
// Source of the format: Xen's public header io/xs_wire.h (struct xsd_sockmsg,
// enum xsd_sockmsg_type, xsd_errors).
package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"syscall"
)

// Sizes in bytes, all from io/xs_wire.h.
const (
	HeaderSize = 16
	MaxPayload = 4096 // XENSTORE_PAYLOAD_MAX
	MaxAbsPath = 3072 // XENSTORE_ABS_PATH_MAX
	MaxRelPath = 2048 // XENSTORE_REL_PATH_MAX
)

// Type is the kind of a message.
type Type uint32

// The message types of Xen 4.17, and those that came later up to 4.22.
const (
	Control            Type = 0
	Directory          Type = 1
	Read               Type = 2
	GetPerms           Type = 3
	Watch              Type = 4
	Unwatch            Type = 5
	TransactionStart   Type = 6
	TransactionEnd     Type = 7
	Introduce          Type = 8
	Release            Type = 9
	GetDomainPath      Type = 10
	Write              Type = 11
	Mkdir              Type = 12
	Rm                 Type = 13
	SetPerms           Type = 14
	WatchEvent         Type = 15
	Error              Type = 16
	IsDomainIntroduced Type = 17
	Resume             Type = 18
	SetTarget          Type = 19
	ResetWatches       Type = 21
	DirectoryPart      Type = 22
	GetFeature         Type = 23
	SetFeature         Type = 24
	GetQuota           Type = 25
	SetQuota           Type = 26
)

var typeNames = map[Type]string{
	Control: "CONTROL", Directory: "DIRECTORY", Read: "READ", GetPerms: "GET_PERMS",
	Watch: "WATCH", Unwatch: "UNWATCH", TransactionStart: "TRANSACTION_START",
	TransactionEnd: "TRANSACTION_END", Introduce: "INTRODUCE", Release: "RELEASE",
	GetDomainPath: "GET_DOMAIN_PATH", Write: "WRITE", Mkdir: "MKDIR", Rm: "RM",
	SetPerms: "SET_PERMS", WatchEvent: "WATCH_EVENT", Error: "ERROR",
	IsDomainIntroduced: "IS_DOMAIN_INTRODUCED", Resume: "RESUME", SetTarget: "SET_TARGET",
	ResetWatches: "RESET_WATCHES", DirectoryPart: "DIRECTORY_PART",
	GetFeature: "GET_FEATURE", SetFeature: "SET_FEATURE", GetQuota: "GET_QUOTA", SetQuota: "SET_QUOTA",
}

// String is the protocol's name of the type.
func (t Type) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Message is one request, reply or event.
type Message struct {
	Type    Type
	ReqID   uint32 // chosen by the client, repeated in the reply; 0 in an event
	TxID    uint32 // transaction, 0 for none
	Payload []byte
}

// SizeError says that a message is larger than the reader accepts. The stream
// cannot be used any further.
type SizeError struct {
	Type     Type
	Len, Max uint32 // payload bytes
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("xenstore message %v has a payload of %d bytes, the limit is %d", e.Type, e.Len, e.Max)
}

// Append appends the encoded message to b. The header is in the host's byte
// order, as both ends run on one machine.
func Append(b []byte, m Message) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(m.Type))
	b = binary.NativeEndian.AppendUint32(b, m.ReqID)
	b = binary.NativeEndian.AppendUint32(b, m.TxID)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(m.Payload)))
	return append(b, m.Payload...)
}

// Decoder finds messages in a stream of bytes. The zero value is ready; it
// accepts payloads up to [MaxPayload] unless Max says otherwise.
type Decoder struct {
	// Max is the largest payload accepted, in bytes; 0 means [MaxPayload].
	Max uint32
	buf []byte
	off int // bytes of buf that have been returned
	err error
}

// keepBuffer is the size in bytes up to which an empty buffer is kept for reuse.
const keepBuffer = 64 << 10

// Feed adds bytes that were read from the stream. The bytes are copied. After
// an error of [Decoder.Next] they are dropped.
func (d *Decoder) Feed(p []byte) {
	if d.err != nil {
		return
	}
	// Moved here and not in Next, as that would be quadratic in small messages.
	d.buf = append(d.buf[:copy(d.buf, d.buf[d.off:])], p...)
	d.off = 0
}

// Next returns the next whole message. It reports false when more bytes are
// needed. The length field is checked as soon as it is there, so that a peer
// can never make the decoder wait for, or hold, more than Max bytes of payload;
// such an error is a [SizeError] and stays. The payload is the caller's own.
func (d *Decoder) Next() (Message, bool, error) {
	if d.err != nil {
		return Message{}, false, d.err
	}
	b := d.buf[d.off:]
	if len(b) < HeaderSize {
		return Message{}, false, nil
	}
	m := Message{
		Type:  Type(binary.NativeEndian.Uint32(b[0:])),
		ReqID: binary.NativeEndian.Uint32(b[4:]),
		TxID:  binary.NativeEndian.Uint32(b[8:]),
	}
	limit := d.Max
	if limit == 0 {
		limit = MaxPayload
	}
	n := binary.NativeEndian.Uint32(b[12:])
	if n > limit {
		d.err = &SizeError{Type: m.Type, Len: n, Max: limit}
		d.buf, d.off = nil, 0
		return Message{}, false, d.err
	}
	if uint64(len(b)) < HeaderSize+uint64(n) {
		return Message{}, false, nil
	}
	end := HeaderSize + int(n)
	m.Payload = bytes.Clone(b[HeaderSize:end])
	d.off += end
	if d.off == len(d.buf) {
		d.buf, d.off = d.buf[:0], 0
		if cap(d.buf) > keepBuffer {
			d.buf = nil
		}
	}
	return m, true, nil
}

// Buffered is the number of bytes fed and not yet returned in a message.
func (d *Decoder) Buffered() int { return len(d.buf) - d.off }

// JoinNUL encodes strings in the protocol's usual form: a NUL after each.
func JoinNUL(parts ...string) []byte {
	var b []byte
	for _, p := range parts {
		b = append(append(b, p...), 0)
	}
	return b
}

// SplitNUL decodes a payload of strings that each end in a NUL. It reports
// false when the last one does not. An empty payload is no strings.
func SplitNUL(p []byte) ([]string, bool) {
	if len(p) == 0 {
		return nil, true
	}
	if p[len(p)-1] != 0 {
		return nil, false
	}
	return strings.Split(string(p[:len(p)-1]), "\x00"), true
}

// errnos are the error names of io/xs_wire.h (xsd_errors), in its order; the
// last one is oxenstored's own.
var errnos = []struct {
	name  string
	errno syscall.Errno
}{
	{"EINVAL", syscall.EINVAL},
	{"EACCES", syscall.EACCES},
	{"EEXIST", syscall.EEXIST},
	{"EISDIR", syscall.EISDIR},
	{"ENOENT", syscall.ENOENT},
	{"ENOMEM", syscall.ENOMEM},
	{"ENOSPC", syscall.ENOSPC},
	{"EIO", syscall.EIO},
	{"ENOTEMPTY", syscall.ENOTEMPTY},
	{"ENOSYS", syscall.ENOSYS},
	{"EROFS", syscall.EROFS},
	{"EBUSY", syscall.EBUSY},
	{"EAGAIN", syscall.EAGAIN},
	{"EISCONN", syscall.EISCONN},
	{"E2BIG", syscall.E2BIG},
	{"EPERM", syscall.EPERM},
	{"EQUOTA", syscall.EDQUOT},
}

// ErrnoOf is the errno for an error's name on the wire. An unknown name is
// EINVAL, as in libxenstore.
func ErrnoOf(name string) syscall.Errno {
	for _, e := range errnos {
		if e.name == name {
			return e.errno
		}
	}
	return syscall.EINVAL
}

// ErrnoName is the name on the wire for an errno; one that has none is EINVAL.
func ErrnoName(errno syscall.Errno) string {
	for _, e := range errnos {
		if e.errno == errno {
			return e.name
		}
	}
	return "EINVAL"
}

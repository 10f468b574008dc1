package vdagent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Sizes of the protocol in bytes (spice/vd_agent.h). All numbers are little-endian.
const (
	chunkHeader   = 8    // u32 port, u32 size
	messageHeader = 20   // u32 protocol, u32 type, u64 opaque, u32 size
	maxChunk      = 2048 // of a chunk without its header, to an agent; agents send larger ones
	maxMessage    = messageHeader + clipboardHead + MaxClipboard
	piece         = 32 << 10
)

// protocol is the number of the one there is.
const protocol = 1

// Ports of chunks: what is between agent and client, and what the host's server says
// of itself.
const (
	portClient = 1
	portServer = 2
)

// Types of messages.
const (
	typeMonitors     = 2
	typeReply        = 3
	typeClipboard    = 4
	typeCapabilities = 6
	typeGrab         = 7
	typeRequest      = 8
	typeDisconnected = 13
)

// Capabilities, by their bits.
const (
	capMonitors     = 1
	capReply        = 2
	capByDemand     = 5
	capSelection    = 6
	capMaxClipboard = 10
	capPosition     = 12
)

// textType is UTF-8 in a clipboard.
const textType = 1

// message is one message without its header.
type message struct {
	kind uint32
	data []byte
}

// encode is a message as chunks.
func encode(port uint32, m message) []byte {
	whole := make([]byte, 0, messageHeader+len(m.data))
	whole = put32(whole, protocol, m.kind, 0, 0, uint32(len(m.data)))
	whole = append(whole, m.data...)
	var out []byte
	for len(whole) > 0 {
		n := min(len(whole), maxChunk)
		out = put32(out, port, uint32(n))
		out = append(out, whole[:n]...)
		whole = whole[n:]
	}
	return out
}

func put32(to []byte, all ...uint32) []byte {
	for _, n := range all {
		to = binary.LittleEndian.AppendUint32(to, n)
	}
	return to
}

func get32(p []byte, i int) uint32 { return binary.LittleEndian.Uint32(p[4*i:]) }

// Errors of the stream; after one of them it is of no use.
var (
	// ErrOutOfStep is a stream in which something else follows than can be there.
	ErrOutOfStep = errors.New("what the guest sends is not the SPICE agent's protocol")
	// ErrTooLarge is a message that is larger than this client takes.
	ErrTooLarge = fmt.Errorf("the guest sends more than %d MiB", MaxClipboard>>20)
)

// decoder reads messages of the client's port.
type decoder struct {
	r       io.Reader
	partial []byte // of the message that is under way, with its header
}

// sync drops all up to a message of a kind, and returns it: what comes before is of an
// earlier client, and may begin anywhere.
func (d *decoder) sync(kind uint32) (message, error) {
	d.partial = nil
	var head [chunkHeader + messageHeader]byte
	if _, err := io.ReadFull(d.r, head[:]); err != nil {
		return message{}, err
	}
	for !begins(head[:], kind) {
		copy(head[:], head[1:])
		if _, err := io.ReadFull(d.r, head[len(head)-1:]); err != nil {
			return message{}, err
		}
	}
	d.partial = append(d.partial, head[chunkHeader:]...)
	if err := d.chunk(portClient, get32(head[:], 1)-messageHeader); err != nil {
		return message{}, err
	}
	if m, whole, err := d.take(); whole || err != nil {
		return m, err
	}
	return d.next()
}

// begins says that a chunk's and a message's header can be those of a kind.
func begins(head []byte, kind uint32) bool {
	port, chunk, in := get32(head, 0), get32(head, 1), head[chunkHeader:]
	size := uint64(get32(in, 4)) + messageHeader
	return port == portClient && get32(in, 0) == protocol && get32(in, 1) == kind &&
		size <= maxMessage && chunk >= messageHeader && (uint64(chunk) == size || chunk == maxChunk && size > maxChunk)
}

// next is the next message. Those of other ports are passed over.
func (d *decoder) next() (message, error) {
	for {
		var head [chunkHeader]byte
		if _, err := io.ReadFull(d.r, head[:]); err != nil {
			return message{}, err
		}
		port, size := get32(head[:], 0), get32(head[:], 1)
		if size == 0 || size > maxMessage || port != portClient && port != portServer {
			return message{}, ErrOutOfStep
		}
		if err := d.chunk(port, size); err != nil {
			return message{}, err
		}
		if port != portClient {
			continue
		}
		if m, whole, err := d.take(); whole || err != nil {
			return m, err
		}
	}
}

// chunk reads what is in a chunk. It takes memory only for what has come.
func (d *decoder) chunk(port, size uint32) error {
	var buf [piece]byte
	for size > 0 {
		n, err := io.ReadFull(d.r, buf[:min(size, piece)])
		if err != nil {
			return err
		}
		size -= uint32(n)
		if port == portClient {
			d.partial = append(d.partial, buf[:n]...)
		}
	}
	return nil
}

// take is the message that is under way, if it is whole.
func (d *decoder) take() (m message, whole bool, err error) {
	if len(d.partial) < messageHeader {
		return m, false, nil
	}
	size := get32(d.partial, 4)
	switch {
	case get32(d.partial, 0) != protocol:
		return m, false, ErrOutOfStep
	case size > maxMessage-messageHeader:
		return m, false, ErrTooLarge
	}
	switch rest := len(d.partial) - messageHeader - int(size); {
	case rest < 0:
		return m, false, nil
	case rest > 0: // a chunk has a part of one message alone
		return m, false, ErrOutOfStep
	}
	m = message{get32(d.partial, 1), d.partial[messageHeader:]}
	d.partial = nil
	return m, true, nil
}

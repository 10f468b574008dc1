package xensim

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/xenchan/xenchan/xen"
)

// The protocol of DIR/xen.sock: a unix SOCK_SEQPACKET connection on which the
// client sends one request and gets one reply, over and over. Both are 32-bit
// words in the host's byte order: a request is its Op and arguments, a reply an
// errno (0 for success) and results; descriptors travel beside a reply
// (SCM_RIGHTS). The hypervisor never sends anything unasked.
//
//	hello        version domid      -> ()
//	alloc        remote             -> (port, link, slot, side)  memory rx tx
//	bind         remote port        -> (port, link, slot, side)  memory rx tx
//	close-port   port               -> ()
//	share        remote n           -> (id, n refs)      memory
//	unshare      id                 -> ()
//	map          remote ref...      -> (id, n × (descriptor index, page))  memories
//	unmap        id                 -> ()
//	open-store                      -> ()                stream
const (
	protoVersion = 2
	wordSize     = 4
	maxWords     = 2 + 2*MaxPages // a reply to map, the longest message
	maxMessage   = maxWords * wordSize
)

// MaxPages is how many pages one SharePages or MapGrants takes.
const MaxPages = 64

// Op is a hypercall, for [Config.Fault].
type Op uint32

// The hypercalls.
const (
	OpHello Op = iota + 1
	OpAllocUnbound
	OpBindInterdomain
	OpClosePort
	OpShare
	OpUnshare
	OpMap
	OpUnmap
	OpOpenStore
)

var opNames = [...]string{
	OpHello: "hello", OpAllocUnbound: "alloc-unbound", OpBindInterdomain: "bind-interdomain",
	OpClosePort: "close-port", OpShare: "share", OpUnshare: "unshare", OpMap: "map",
	OpUnmap: "unmap", OpOpenStore: "open-store",
}

// String is the name in messages.
func (o Op) String() string {
	if int(o) < len(opNames) && opNames[o] != "" {
		return opNames[o]
	}
	return fmt.Sprintf("op %d", uint32(o))
}

// argCount is how many arguments each request takes, at least and at most.
var argCount = map[Op][2]int{
	OpHello:           {2, 2},
	OpAllocUnbound:    {1, 1},
	OpBindInterdomain: {2, 2},
	OpClosePort:       {1, 1},
	OpShare:           {2, 2},
	OpUnshare:         {1, 1},
	OpMap:             {2, 1 + MaxPages},
	OpUnmap:           {1, 1},
	OpOpenStore:       {0, 0},
}

// encode makes a message of a first word and more.
func encode(first uint32, words ...uint32) []byte {
	b := make([]byte, 0, wordSize*(1+len(words)))
	b = binary.NativeEndian.AppendUint32(b, first)
	for _, w := range words {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return b
}

// decode is the reverse of encode; it takes whole words only, at least one and
// at most maxWords.
func decode(b []byte) (first uint32, words []uint32, err error) {
	if len(b) == 0 || len(b) > maxMessage || len(b)%wordSize != 0 {
		return 0, nil, fmt.Errorf("message of %d bytes: %w", len(b), syscall.EBADMSG)
	}
	for i := wordSize; i < len(b); i += wordSize {
		words = append(words, binary.NativeEndian.Uint32(b[i:]))
	}
	return binary.NativeEndian.Uint32(b), words, nil
}

// decodeRequest checks that the hypercall exists and has the arguments that it
// takes. An error means that the client does not speak the protocol.
func decodeRequest(b []byte) (Op, []uint32, error) {
	first, args, err := decode(b)
	if err != nil {
		return 0, nil, err
	}
	op := Op(first)
	limits, ok := argCount[op]
	if !ok || len(args) < limits[0] || len(args) > limits[1] {
		return 0, nil, fmt.Errorf("request %v with %d arguments: %w", op, len(args), syscall.EBADMSG)
	}
	return op, args, nil
}

// toDomID refuses what no domain can have as its number.
func toDomID(w uint32) (xen.DomID, error) {
	if w >= uint32(xen.FirstReserved) {
		return 0, fmt.Errorf("domid %d: %w", w, syscall.EINVAL)
	}
	return xen.DomID(w), nil
}

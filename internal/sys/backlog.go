package sys

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// From linux/unix_diag.h, which x/sys does not have.
const (
	udiagShowRQLen = 0x10 // in unix_diag_req's udiag_show
	unixDiagRQLen  = 4    // the attribute: two words, rqueue and wqueue
	sizeofDiagReq  = 24   // struct unix_diag_req
	sizeofDiagMsg  = 16   // struct unix_diag_msg
)

// Backlog is how many connections wait at a listening unix socket to be accepted.
// Only sock_diag(7) counts them, and not for a process without netlink sockets, or
// that has the listener from another network namespace: then it is 1 for at least
// one.
func Backlog(listener syscall.RawConn) (int, error) {
	if r, err := PollNow(listener); err != nil || !r.In {
		return 0, err
	}
	var ino uint64
	if err := control(listener, func(fd int) error {
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		ino = st.Ino
		return os.NewSyscallError("fstat", err)
	}); err != nil {
		return 0, err
	}
	if n, err := countBacklog(uint32(ino)); err == nil {
		return n, nil
	}
	return 1, nil
}

func countBacklog(ino uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, diagRequest(ino), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	// The kernel has answered before sendto returns.
	reply := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, reply, unix.MSG_DONTWAIT)
	if err != nil {
		return 0, os.NewSyscallError("recvfrom", err)
	}
	return parseDiag(reply[:n])
}

// diagRequest asks for one socket by its inode (struct unix_diag_req).
func diagRequest(ino uint32) []byte {
	e := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr+sizeofDiagReq)
	e.PutUint32(b[0:], uint32(len(b)))
	e.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	e.PutUint16(b[6:], unix.NLM_F_REQUEST)
	req := b[unix.SizeofNlMsghdr:]
	req[0] = unix.AF_UNIX
	e.PutUint32(req[4:], ^uint32(0)) // in any state
	e.PutUint32(req[8:], ino)
	e.PutUint32(req[12:], udiagShowRQLen)
	e.PutUint64(req[16:], ^uint64(0)) // any cookie
	return b
}

func parseDiag(b []byte) (int, error) {
	e := binary.NativeEndian
	if len(b) < unix.SizeofNlMsghdr+4 {
		return 0, fmt.Errorf("sock_diag: an answer of %d bytes", len(b))
	}
	if e.Uint16(b[4:]) == unix.NLMSG_ERROR {
		return 0, os.NewSyscallError("sock_diag", unix.Errno(-int32(e.Uint32(b[unix.SizeofNlMsghdr:]))))
	}
	attrs := b[min(len(b), unix.SizeofNlMsghdr+sizeofDiagMsg):]
	for len(attrs) >= 4 {
		size, kind := int(e.Uint16(attrs)), e.Uint16(attrs[2:])
		if size < 4 || size > len(attrs) {
			break
		}
		if kind == unixDiagRQLen && size >= 8 {
			return int(e.Uint32(attrs[4:])), nil
		}
		attrs = attrs[min(len(attrs), (size+3)&^3):]
	}
	return 0, fmt.Errorf("sock_diag: the answer has no length of the queue")
}

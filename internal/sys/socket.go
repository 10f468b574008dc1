package sys

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxPassed is how many descriptors one message carries at most (SCM_MAX_FD of
// unix(7)).
const MaxPassed = 253

// Cred is who made the other end of a unix socket, as it was at that moment
// (SO_PEERCRED and SO_PEERGROUPS of unix(7)).
type Cred struct {
	PID    int32 // 0 for a process that this one cannot see
	UID    uint32
	GID    uint32
	Groups []uint32 // the supplementary ones
}

// PeerCred asks the kernel who connected.
func PeerCred(c *net.UnixConn) (Cred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Cred{}, err
	}
	var cred Cred
	err = control(raw, func(fd int) error {
		u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		cred = Cred{PID: u.Pid, UID: u.Uid, GID: u.Gid}
		cred.Groups, err = peerGroups(fd)
		return os.NewSyscallError("getsockopt", err)
	})
	return cred, err
}

// Unsent is at least how many of the bytes that were written to a connected unix
// stream socket the other end has not read: the kernel counts the memory that they
// take (SIOCOUTQ), which is none once the other end is closed.
func Unsent(rc syscall.RawConn) (n int, err error) {
	err = control(rc, func(fd int) error {
		var count [4]byte
		err := ioctlNow(fd, unix.SIOCOUTQ, count[:])
		n = int(binary.NativeEndian.Uint32(count[:]))
		return os.NewSyscallError("ioctl SIOCOUTQ", err)
	})
	return n, err
}

// Socketpair makes two connected unix stream sockets: one for this process, one
// to pass to another.
func Socketpair() (*net.UnixConn, *Handle, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := NewHandle(fds[1])
	ours, err := UnixConn(NewHandle(fds[0]))
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// UnixConn turns the handle of a unix socket into a connection on Go's poller.
// It takes ownership of the handle, also when it fails.
func UnixConn(h *Handle) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(h.fd), "unix socket")
	defer f.Close() // FileConn makes its own duplicate
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("descriptor is a %s socket, not a unix one: %w", c.LocalAddr().Network(), unix.EINVAL)
	}
	return u, nil
}

// SendMsg sends one message with descriptors. The other end gets duplicates;
// the handles stay the caller's.
func SendMsg(c *net.UnixConn, msg []byte, pass ...*Handle) error {
	return SendMsgTo(c, nil, msg, pass...)
}

// SendMsgTo is SendMsg on a socket that is not connected.
func SendMsgTo(c *net.UnixConn, to *net.UnixAddr, msg []byte, pass ...*Handle) error {
	fds := make([]int, 0, len(pass))
	var held []*Handle
	defer func() {
		for _, h := range held {
			_ = h.release()
		}
	}()
	for _, h := range pass {
		if !h.acquire() {
			return os.ErrClosed
		}
		held = append(held, h)
		fds = append(fds, h.fd)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := c.WriteMsgUnix(msg, oob, to)
	return err
}

// RecvMsg receives one message into buf, and up to max descriptors, which
// become the caller's. A message that does not fit into buf is EMSGSIZE. If not
// all descriptors could be received, because there were more than max or this
// process has no room for them, the error is EMFILE, none of them stays open,
// and the bytes of the message are good all the same.
func RecvMsg(c *net.UnixConn, buf []byte, max int) (int, []*Handle, error) {
	oob := make([]byte, unix.CmsgSpace(4*max))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return 0, nil, err
	}
	hs, err := parseRights(oob[:oobn])
	switch {
	case err != nil:
		n = 0
	case flags&unix.MSG_TRUNC != 0:
		n, err = 0, os.NewSyscallError("recvmsg", unix.EMSGSIZE)
	case flags&unix.MSG_CTRUNC != 0 || len(hs) > max:
		err = os.NewSyscallError("recvmsg", unix.EMFILE)
	}
	if err != nil {
		CloseAll(hs)
		return n, nil, err
	}
	return n, hs, nil
}

func parseRights(oob []byte) ([]*Handle, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	var hs []*Handle
	for _, m := range cmsgs {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return hs, os.NewSyscallError("recvmsg", err)
		}
		for _, fd := range fds {
			hs = append(hs, NewHandle(fd))
		}
	}
	return hs, nil
}

// ListenUnix listens on a unix socket of the network "unix" or "unixpacket"
// whose file has the given mode from its first moment, whatever the umask
// allows besides. Closing the listener removes the file.
func ListenUnix(ctx context.Context, network, path string, mode os.FileMode) (*net.UnixListener, error) {
	// bind(2) gives the file the mode of the socket's own inode, less the umask.
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var modeErr error
		if err := raw.Control(func(fd uintptr) {
			modeErr = os.NewSyscallError("fchmod", unix.Fchmod(int(fd), uint32(mode.Perm())))
		}); err != nil {
			return err
		}
		return modeErr
	}}
	l, err := lc.Listen(ctx, network, path)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if ok {
		err = os.Chmod(path, mode.Perm()) // what the umask took away
	} else {
		err = fmt.Errorf("%s is no unix network: %w", network, unix.EINVAL)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return u, nil
}

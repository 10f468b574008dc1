package guest

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/xenchan/xenchan/internal/sys"
)

// PTY is a pseudo-terminal that leads to a channel and stays when the channel
// goes and comes again: for programs such as qemu-ga, which stays deaf after a
// hang-up.
type PTY struct {
	// Path is what the program is to open. It is raw.
	Path string

	master, slave *os.File
	conn          *Conn
	done          chan error
}

// NewPTY connects a new pseudo-terminal to c, which belongs to it from then on.
func NewPTY(c *Conn) (*PTY, error) {
	master, err := sys.OpenPTMX()
	if err != nil {
		return nil, err
	}
	p := &PTY{master: master, conn: c, done: make(chan error, 2)}
	if err := p.setUp(); err != nil {
		return nil, errors.Join(err, master.Close())
	}
	go func() { _, err := io.Copy(c, master); p.done <- err }()
	go func() { _, err := io.Copy(master, c); p.done <- err }()
	return p, nil
}

// setUp opens the other end and keeps it: a program that closes it hangs up
// nothing, and finds it raw the next time.
func (p *PTY) setUp() error {
	rc, err := p.master.SyscallConn()
	if err != nil {
		return err
	}
	n, err := sys.PTYNumber(rc)
	if err == nil {
		err = sys.UnlockPTY(rc)
	}
	if err == nil {
		p.slave, err = sys.OpenPTYPeer(rc)
	}
	if err != nil {
		return err
	}
	p.Path = fmt.Sprintf("/dev/pts/%d", n)
	return makeRaw(p.slave)
}

// Close ends the pseudo-terminal and the channel.
func (p *PTY) Close() error {
	err := errors.Join(p.conn.Close(), p.master.Close(), p.slave.Close())
	<-p.done
	<-p.done
	return err
}

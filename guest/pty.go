package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

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
	relays        sync.WaitGroup
}

// NewPTY connects a new pseudo-terminal to c, which belongs to it from then on.
func NewPTY(c *Conn) (*PTY, error) {
	master, err := sys.OpenPTMX()
	if err != nil {
		return nil, err
	}
	p := &PTY{master: master, conn: c, done: make(chan error, 1)}
	if err := p.setUp(); err != nil {
		return nil, errors.Join(err, master.Close())
	}
	said := make(chan []byte, ahead)
	p.relays.Go(func() {
		defer close(said)
		p.end(hear(said, master))
	})
	p.relays.Go(func() {
		for b := range said {
			if _, err := c.Write(b); err != nil {
				p.end(err)
			}
		}
	})
	p.relays.Go(func() {
		_, err := io.Copy(master, c)
		p.end(err)
	})
	return p, nil
}

// ahead is how many pieces, of at most 4 KiB each, are taken of what the program says before
// the channel has room for them. While its terminal has none, qemu-ga tries again at once,
// and all the time: a piece of a file, the longest of its usual answers, fits here.
const ahead = 256

// hear reads what the program says, in pieces as the terminal has them.
func hear(said chan<- []byte, from io.Reader) error {
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return err
		}
		said <- append([]byte(nil), buf[:n]...)
	}
}

// end says that bytes no longer pass; one reason is enough.
func (p *PTY) end(err error) {
	select {
	case p.done <- fmt.Errorf("the channel cannot be used any more: %w", err):
	default:
	}
}

// Done receives the reason when bytes no longer pass, as after Close.
func (p *PTY) Done() <-chan error { return p.done }

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
	p.relays.Wait()
	return err
}

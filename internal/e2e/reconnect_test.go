package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sim"
)

// oneWrite is the most that comes twice when a client loses its connection with the
// daemon, what was being written to it, or leaves without having read all, what it was given.
const oneWrite = 32 << 10

// known is how many bytes tell for sure where in a flow they are.
const known = 16

// comer is a client that connects again whenever it has lost its connection.
type comer struct {
	path  string
	flow  *flow // from the guest
	again atomic.Int64
	back  *flow // to the guest: from position n<<40 on by the nth connection
	sent  []atomic.Int64
}

// receive reads on one connection after the other.
func (c *comer) receive() error {
	for number := range c.sent {
		conn, err := net.Dial("unix", c.path)
		for err != nil && !c.flow.complete() {
			time.Sleep(2 * time.Millisecond)
			conn, err = net.Dial("unix", c.path)
		}
		if err != nil {
			return nil
		}
		go c.send(conn, number)
		err = c.follow(conn)
		conn.Close()
		if err != io.EOF {
			return err
		}
	}
	return errors.New("far more connections than kills")
}

// follow reads one connection: it begins where the last one ended, or up to one
// write before, and goes on from there.
func (c *comer) follow(conn net.Conn) error {
	got, held, at := make([]byte, 64<<10), 0, int64(-1)
	for {
		conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := conn.Read(got[held:])
		held += n
		lost := err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
		if at < 0 && (held >= known || held > 0 && (lost || c.flow.complete())) {
			if at = c.align(got[:held]); at < 0 {
				return fmt.Errorf("%s: a connection begins with bytes that do not follow on the first %d", c.flow.name, c.flow.came.Load())
			}
		}
		if at >= 0 {
			if same := c.flow.same(got[:held], at); same < held {
				return fmt.Errorf("%s: byte %d is not what was sent", c.flow.name, at+int64(same))
			}
			at += int64(held)
			held = 0
			c.flow.came.Store(max(c.flow.came.Load(), at))
		}
		switch {
		case lost:
			return io.EOF
		case err != nil && held == 0 && c.flow.complete():
			return nil
		}
	}
}

func (c *comer) align(got []byte) int64 {
	came := c.flow.came.Load()
	for at := came; at >= max(0, came-oneWrite); at-- {
		if c.flow.same(got, at) == len(got) {
			c.again.Add(came - at)
			return at
		}
	}
	return -1
}

// send writes until the connection ends.
func (c *comer) send(conn net.Conn, number int) {
	base := int64(number) << 40
	for p := make([]byte, 1000); ; {
		c.back.fill(p, base+c.sent[number].Load())
		n, err := conn.Write(p)
		c.sent[number].Add(int64(n))
		if err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// hear reads in the guest what the connections have sent. Of each there is the
// beginning, or all: a daemon that dies takes with it what it had not read.
func (c *comer) hear(r io.Reader, deadline func(time.Time) error) error {
	number, at := 0, int64(0)
	var held []byte
	for buf := make([]byte, 64<<10); ; {
		deadline(time.Now().Add(50 * time.Millisecond))
		n, err := r.Read(buf)
		held = append(held, buf[:n]...)
		for len(held) >= known {
			same := c.back.same(held, int64(number)<<40+at)
			at += int64(same)
			c.back.came.Add(int64(same))
			if len(held)-same < known {
				// More may show that this is the next connection, and that the last of what
				// looked like this one is its beginning.
				back := min(same, chance)
				held = held[same-back:]
				at -= int64(back)
				c.back.came.Add(-int64(back))
				break
			}
			next, begin := c.nextBeginning(number, held[max(0, same-chance):])
			if next < 0 {
				return fmt.Errorf("%s: after %d bytes of connection %d there come others", c.back.name, at, number)
			}
			held = held[max(0, same-chance)+begin:]
			number, at = next, 0
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err != nil && c.flow.complete() && at > 0 && at+int64(len(held)) == c.sent[number].Load() {
			return nil // all of the last connection
		}
	}
}

// chance is how many bytes of one connection may look like the last one's next.
const chance = 3

// nextBeginning is which connection begins in bytes of which not many are of the
// last one, and where; or -1.
func (c *comer) nextBeginning(last int, held []byte) (number, at int) {
	for number := last + 1; number < len(c.sent); number++ {
		for at := 0; at <= chance && at+known <= len(held); at++ {
			if c.back.same(held[at:at+known], int64(number)<<40) == known {
				return number, at
			}
		}
	}
	return -1, 0
}

// The same without anybody who keeps descriptors: clients lose their connection and
// come again. No byte of a guest is lost, and at the most one write comes twice for
// each kill. What a client has sent arrives up to some byte, in order and once.
func TestSoak_clientsReconnect(t *testing.T) {
	const channels = 4
	d := sim.Domain{Name: "red"}
	for i := range channels {
		d.Channels = append(d.Channels, channel.Spec{Name: fmt.Sprint("c", i), Connection: channel.Socket, Overflow: channel.Block})
	}
	s := newSoak(t, channels, func() *host {
		return startBy(t, []string{"/usr/bin/env", "-u", "NOTIFY_SOCKET", xenchan(t)}, d)
	})
	errs := make(chan error, 3*channels)
	var comers []*comer
	for _, spec := range d.Channels {
		guest := s.inGuest(d.Name, spec.Name)
		guest.SetWriteDeadline(time.Now().Add(10*time.Minute + time.Duration(s.kills)*time.Second))
		c := &comer{
			path: s.channel(d.Name, spec.Name).Path, flow: s.flow(spec.Name + " from the guest"),
			back: s.flow(spec.Name + " to the guest"), sent: make([]atomic.Int64, 10*s.kills+10),
		}
		comers = append(comers, c)
		go func() { errs <- c.flow.send(guest) }()
		go func() { errs <- c.hear(guest, guest.SetReadDeadline) }()
		go func() { errs <- c.receive() }()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
				return
			}
		}
	}()
	s.killDaemons()
	for _, c := range comers {
		c.flow.stop.Store(true)
	}
	<-ended
	var total, again, up, heard int64
	for _, c := range comers {
		total, again, heard = total+c.flow.sent.Load(), again+c.again.Load(), heard+c.back.came.Load()
		for i := range c.sent {
			up += c.sent[i].Load()
		}
		if most := int64(s.kills) * oneWrite; c.again.Load() > most {
			t.Errorf("%s: %d bytes came twice, more than %d", c.flow.name, c.again.Load(), most)
		}
	}
	t.Logf("%d daemons killed: %d bytes from guests, 0 lost, %d of them twice; of %d bytes to guests %d arrived, the rest went with its connection",
		s.kills, total, again, up, heard)
}

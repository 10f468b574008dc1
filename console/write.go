package console

import (
	"context"
	"net"
	"os"
	"time"
)

// Write puts all of p into the ring, waiting for the other half to make room.
func (c *Conn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	for sent := 0; ; {
		n, err := c.TryWrite(p[sent:])
		sent += n
		switch {
		case err != nil:
			return sent, c.opError("write", err)
		case done(c.writeBy.wait()):
			return sent, c.opError("write", os.ErrDeadlineExceeded)
		case sent == len(p):
			return sent, nil
		}
		select {
		case <-c.writable:
		case <-c.writeBy.wait():
		case <-c.hungUp:
		case <-c.failed:
		case <-c.closing:
		}
	}
}

// TryWrite puts as many bytes of p into the ring as fit now.
func (c *Conn) TryWrite(p []byte) (int, error) {
	c.txMu.Lock()
	defer c.txMu.Unlock()
	return c.put(p)
}

// Feed puts as many bytes of the source into the ring as fit now.
func (c *Conn) Feed() error {
	c.txMu.Lock()
	defer c.txMu.Unlock()
	err := c.feed()
	c.answered = err == nil && len(c.from.Next()) == 0
	return err
}

// feed is called with txMu held.
func (c *Conn) feed() error {
	n, err := c.put(c.from.Next())
	c.from.Advance(n)
	return err
}

// put is called with txMu held.
func (c *Conn) put(p []byte) (int, error) {
	switch {
	case c.closed || done(c.closing):
		return 0, net.ErrClosed
	case done(c.hungUp):
		return 0, ErrHungUp
	case done(c.failed):
		return 0, c.failure
	case c.held || done(c.writeBy.wait()):
		return 0, nil
	}
	n, err := c.tx.Write(p)
	if err != nil {
		c.fail(err)
		return 0, err
	}
	if n == 0 {
		return 0, nil
	}
	c.sent = true
	if free, err := c.tx.Free(); err == nil && free == 0 {
		c.full = time.Now()
	}
	c.written.Add(int64(n))
	return n, c.event.Notify()
}

// WaitWritable waits until TryWrite or Feed is worth another try, at most for d.
func (c *Conn) WaitWritable(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.writable:
	case <-timer.C:
	case <-c.hungUp:
	case <-c.failed:
	case <-c.closing:
	case <-ctx.Done():
	}
}

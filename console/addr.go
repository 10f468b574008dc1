package console

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/xenchan/xenchan/xen"
)

// Addr is a local port of an event channel; it names a Conn for [net.Conn].
type Addr struct{ Port xen.Port }

// Network is "xen-console".
func (Addr) Network() string { return "xen-console" }

// String is the port.
func (a Addr) String() string { return fmt.Sprintf("port %v", a.Port) }

// LocalAddr is the local port.
func (c *Conn) LocalAddr() net.Addr { return Addr{c.event.Port()} }

// RemoteAddr is the local port too: the other half has no address of its own.
func (c *Conn) RemoteAddr() net.Addr { return Addr{c.event.Port()} }

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline makes blocked and later Reads fail from t on; zero means never.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(c.readBy, t) }

// SetWriteDeadline makes blocked and later Writes fail from t on; zero means never.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(c.writeBy, t) }

func (c *Conn) setDeadline(d *deadline, t time.Time) error {
	if done(c.closing) {
		return c.opError("set", net.ErrClosed)
	}
	d.set(t)
	return nil
}

package xendev

import (
	"fmt"
	"os"
	"sync/atomic"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xen/turns"
)

// events is the device of event channels, and who serves it.
type events struct {
	*sys.Evtchn
	turns *turns.Dispatcher
}

func openEvents() (*events, error) {
	e, err := sys.OpenEvtchn()
	if err != nil {
		return nil, explain(err)
	}
	return &events{Evtchn: e, turns: turns.New(e)}, nil
}

func (e *events) close() error {
	if err := e.turns.Close(); err != nil {
		return err
	}
	return e.Evtchn.Close()
}

// channel is one event channel.
type channel struct {
	*turns.Channel
	events *events
	port   uint32
	owner  *Hypervisor
	closed atomic.Bool
}

// BindInterdomain binds a port that remote has allocated for this domain. It
// implements [xen.Hypervisor].
func (h *Hypervisor) BindInterdomain(remote xen.DomID, port xen.Port) (xen.EventChannel, error) {
	c, err := h.channel(func(e *sys.Evtchn) (uint32, error) { return e.BindInterdomain(uint16(remote), uint32(port)) })
	if err != nil {
		return nil, fmt.Errorf("xendev: bind to port %v of domain %v: %w", port, remote, explain(err))
	}
	return c, nil
}

// AllocUnbound allocates a port for remote. It implements [xen.Hypervisor].
func (h *Hypervisor) AllocUnbound(remote xen.DomID) (xen.EventChannel, error) {
	c, err := h.channel(func(e *sys.Evtchn) (uint32, error) { return e.BindUnbound(uint16(remote)) })
	if err != nil {
		return nil, fmt.Errorf("xendev: allocate a port for domain %v: %w", remote, explain(err))
	}
	return c, nil
}

func (h *Hypervisor) channel(bind func(*sys.Evtchn) (uint32, error)) (xen.EventChannel, error) {
	e, err := h.eventDevice()
	if err != nil {
		return nil, err
	}
	c := &channel{events: e, owner: h}
	c.Channel, err = e.turns.Add(func() (uint32, error) {
		c.port, err = bind(e.Evtchn)
		return c.port, err
	})
	if err != nil {
		return nil, err
	}
	if err := h.adopt(c); err != nil {
		return nil, err
	}
	return c, nil
}

// eventDevice opens the device for the first channel.
func (h *Hypervisor) eventDevice() (*events, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, os.ErrClosed
	}
	if h.events == nil {
		var err error
		if h.events, err = openEvents(); err != nil {
			return nil, err
		}
	}
	return h.events, nil
}

func (c *channel) Port() xen.Port { return xen.Port(c.port) }

func (c *channel) Notify() error {
	if c.closed.Load() { // the number may be another channel's by now
		return c.failed("notify", os.ErrClosed)
	}
	return c.failed("notify", c.events.Notify(c.port))
}

func (c *channel) Unmask() error { return c.failed("unmask", c.Channel.Unmask()) }

func (c *channel) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.Channel.Close()
	c.owner.forget(c)
	return c.failed("close", c.events.Unbind(c.port))
}

func (c *channel) failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("xendev: %s port %v: %w", doing, c.Port(), err)
}

package xendev

import (
	"fmt"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
)

// channel is one event channel, on a descriptor of its own.
type channel struct {
	*sys.Evtchn
	owner *Hypervisor
}

// BindInterdomain binds a port that remote has allocated for this domain. It
// implements [xen.Hypervisor].
func (h *Hypervisor) BindInterdomain(remote xen.DomID, port xen.Port) (xen.EventChannel, error) {
	e, err := sys.BindInterdomain(uint16(remote), uint32(port))
	if err != nil {
		return nil, fmt.Errorf("xendev: bind to port %v of domain %v: %w", port, remote, explain(err))
	}
	return h.channel(e)
}

// AllocUnbound allocates a port for remote. It implements [xen.Hypervisor].
func (h *Hypervisor) AllocUnbound(remote xen.DomID) (xen.EventChannel, error) {
	e, err := sys.BindUnbound(uint16(remote))
	if err != nil {
		return nil, fmt.Errorf("xendev: allocate a port for domain %v: %w", remote, explain(err))
	}
	return h.channel(e)
}

func (h *Hypervisor) channel(e *sys.Evtchn) (xen.EventChannel, error) {
	c := &channel{Evtchn: e, owner: h}
	if err := h.adopt(c); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *channel) Port() xen.Port { return xen.Port(c.Evtchn.Port()) }

func (c *channel) Notify() error { return c.failed("notify", c.Evtchn.Notify()) }

func (c *channel) Wait() error { return c.failed("wait for", c.Evtchn.Wait()) }

func (c *channel) Unmask() error { return c.failed("unmask", c.Evtchn.Unmask()) }

func (c *channel) Close() error {
	c.owner.forget(c)
	return c.failed("close", c.Evtchn.Close())
}

func (c *channel) failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("xendev: %s port %v: %w", doing, c.Port(), err)
}

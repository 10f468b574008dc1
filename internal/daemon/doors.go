package daemon

import (
	"context"
	"fmt"
	"sync"
	"syscall"

	"github.com/xenchan/xenchan/internal/sys"
)

// doors are the sockets at which nobody is served. One goroutine waits for a knock at
// any of them.
type doors struct {
	epoll *sys.Epoll

	mu   sync.Mutex
	last int32
	all  map[int32]door // guarded by mu
}

type door struct {
	listener syscall.RawConn
	dev      *device
}

func openDoors() (*doors, error) {
	e, err := sys.NewEpoll()
	if err != nil {
		return nil, fmt.Errorf("wait for clients: %w", err)
	}
	return &doors{epoll: e, all: make(map[int32]door)}, nil
}

// add takes in a listening socket. The number is never 0. It is watched from watch on,
// until the first knock.
func (d *doors) add(listener syscall.RawConn, dev *device) (int32, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.last++; d.last <= 0 || d.all[d.last].dev != nil; d.last++ {
		d.last = max(d.last, 0)
	}
	if err := d.epoll.AddResting(listener, d.last); err != nil {
		return 0, fmt.Errorf("wait for clients: %w", err)
	}
	d.all[d.last] = door{listener, dev}
	return d.last, nil
}

// watch waits for one knock, which may be there already.
func (d *doors) watch(number int32) error {
	d.mu.Lock()
	at := d.all[number]
	d.mu.Unlock()
	return d.epoll.Arm(at.listener, number)
}

// remove forgets a socket, which is still open.
func (d *doors) remove(number int32) {
	d.mu.Lock()
	at := d.all[number]
	delete(d.all, number)
	d.mu.Unlock()
	_ = d.epoll.Remove(at.listener) // fails only where it was not added
}

func (d *doors) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { d.epoll.Close() })
	defer stop()
	defer d.epoll.Close()
	ids := make([]int32, 64)
	for {
		n, err := d.epoll.Wait(ids)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("wait for clients: %w", err)
		}
		for _, id := range ids[:n] {
			d.mu.Lock()
			dev := d.all[id].dev
			d.mu.Unlock()
			if dev != nil { // else it was removed meanwhile
				dev.knock()
			}
		}
	}
}

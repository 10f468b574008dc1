package guest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/xenchan/xenchan/xenstore"
)

// follow has the host answer what a frontend says, a moment later, until the test ends.
func (k *kernel) follow(devid int) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for seen := ""; ; {
			err := k.dom0.WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
				now := xenstore.NewValues(ctx, r).Get(node(devid) + "/state")
				changed := now != seen
				seen = now
				return changed, nil
			})
			if err != nil {
				return
			}
			time.Sleep(150 * time.Millisecond) // longer than a holder waits to look again
			if answer := map[string]string{"1": "2", "3": "4", "6": "6"}[seen]; answer != "" {
				if err := k.dom0.Write(context.Background(), backend(devid)+"/state", answer); err != nil {
					k.t.Error(err)
				}
			}
		}
	}()
	k.t.Cleanup(func() { cancel(); <-done })
}

// took waits until the driver has taken a console so many times.
func (k *kernel) took(devid, times int) {
	k.t.Helper()
	eventually(k.t, func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.devices[devid] != times {
			return fmt.Errorf("the driver has taken console %d %d times, not %d", devid, k.devices[devid], times)
		}
		return nil
	})
}

func (k *kernel) state(devid int, v string) {
	k.t.Helper()
	k.check(k.dom0.Write(k.ctx(), node(devid)+"/state", v))
}

// A device that is let go while its backend serves it is not given back before that has
// ended the old connection: the end would be taken for the new one's.
func TestHold_waitsForTheOldEnd(t *testing.T) {
	k := newKernel(t)
	for devid := range 3 {
		k.plug(devid+1, name(devid+1))
	}
	defer k.hold()()
	k.agree(name)
	k.restoreWithout(func() {
		k.plugged(6)
		k.serve(6)
		k.follow(6)
		k.robbed = 6
	}, 2)
	k.took(6, 2)
	k.agree(name)
	eventually(t, func() error {
		if s, err := k.dom0.Read(t.Context(), backend(6)+"/state"); s != "4" {
			return fmt.Errorf("the backend is in state %q, %w", s, err)
		}
		return nil
	})
	k.took(6, 2)
}

// The host offers a device once more while the driver takes it, which fails, and the
// kernel does not look by itself.
func TestHold_offeredWhileTheDriverTakesIt(t *testing.T) {
	k := newKernel(t)
	k.plug(1, name(1))
	k.plug(2, name(2))
	defer k.hold()()
	k.agree(name)
	again := func() {
		k.serve(2)
		k.nodes(2, name(2), "1")
	}
	k.restoreWithout(func() {
		again()
		k.meanwhile = func() {
			k.check(k.dom0.Remove(k.ctx(), node(2)))
			again()
		}
	}, 2)
	k.took(2, 2)
	k.agree(name)
}

// A device that the driver has, but that is neither connected nor about to go, is let
// go and given back: its driver has followed the end of a backend that had already begun
// anew, or waits for the nodes that were there before.
func TestHold_revivesWhatIsStuck(t *testing.T) {
	for _, state := range []string{closed, initialising} {
		t.Run("in state "+state, func(t *testing.T) {
			k := newKernel(t)
			k.abandoned = 200 * time.Millisecond
			for devid := range 3 {
				k.plug(devid+1, name(devid+1))
				k.serve(devid + 1)
				k.follow(devid + 1)
			}
			k.check(k.dom0.Write(k.ctx(), backend(1)+"/online", "0")) // it is being unplugged
			k.state(1, closed)
			k.state(2, state)
			defer k.hold()()
			k.took(2, 2)
			eventually(t, func() error {
				if got := k.linked(); got[name(2)] == "" || got[name(3)] == "" || len(got) != 2 {
					return fmt.Errorf("links: %v", got)
				}
				return nil
			})
			k.took(3, 1)
			k.took(1, 1)
		})
	}
}

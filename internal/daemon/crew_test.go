package daemon

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A device has one turn at a time, and each call is followed by a turn that begins after
// it; never do more than a few have theirs at once, but for what they do aside.
func TestCrew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crew
		var now, most, done atomic.Int32
		inside := make(map[*device]*atomic.Int32)
		aside := false
		c.take = func(d *device) {
			if inside[d].Add(1) != 1 {
				t.Error("two turns of one device at once")
			}
			defer inside[d].Add(-1)
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			if aside {
				c.aside(func() { time.Sleep(time.Second) })
			} else {
				time.Sleep(time.Second)
			}
			now.Add(-1)
			done.Add(1)
		}
		all := make([]*device, 10*hands)
		for i := range all {
			all[i] = new(device)
			inside[all[i]] = new(atomic.Int32)
		}
		call := func(times int) {
			for range times {
				for _, d := range all {
					c.call(d)
				}
			}
		}
		call(3)
		synctest.Wait()
		if _, busy := c.at(all[0]); !busy {
			t.Error("a device that waits for its turn counts as resting")
		}
		call(1) // for those at work this is another turn, for those that wait the same
		begin := time.Now()
		c.wg.Wait()
		if n := done.Load(); n != int32(len(all)+hands) {
			t.Errorf("%d turns", n)
		}
		if most.Load() != hands {
			t.Errorf("%d turns at once, not %d", most.Load(), hands)
		}
		if took := time.Since(begin); took != 11*time.Second {
			t.Errorf("it took %v", took)
		}
		if turns, busy := c.at(all[0]); busy || turns != 2 {
			t.Errorf("the first has had %d turns", turns)
		}
		aside = true
		begin = time.Now()
		call(1)
		c.wg.Wait()
		if took := time.Since(begin); took != time.Second {
			t.Errorf("what all do aside took %v", took)
		}
		c.close()
		c.call(all[0])
		synctest.Wait()
		if n := done.Load(); n != int32(2*len(all)+hands) {
			t.Errorf("a turn after the end")
		}
	})
}

// Memory is given back once after much was done, not again and again, and not meanwhile.
func TestCrew_rested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crew
		var times atomic.Int32
		c.take, c.rested = func(*device) {}, func() { times.Add(1) }
		d := new(device)
		turns := func(n int) {
			for range n {
				c.call(d)
				synctest.Wait()
			}
		}
		turns(manyTurns - 1)
		time.Sleep(time.Hour)
		if times.Load() != 0 {
			t.Error("rested after little work")
		}
		for range 10 {
			turns(1)
			time.Sleep(restsAfter / 2)
		}
		if times.Load() != 0 {
			t.Error("rested in the middle of work")
		}
		time.Sleep(time.Hour)
		if n := times.Load(); n != 1 {
			t.Errorf("rested %d times", n)
		}
		turns(manyTurns)
		c.close()
		time.Sleep(time.Hour)
		if times.Load() != 1 {
			t.Error("rested after the end")
		}
	})
}

package sys

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// CalmMonitor has the Go runtime's monitor look less often, by so much, at what the
// other threads do. It looks every 20 µs while any of them works, and gives the processor
// of one whose system call takes longer to another thread. On a host where a system call
// itself takes that long, and a thread waits for a CPU for longer, that is half of what a
// small program does. The price is that a call that blocks may keep others waiting for
// as long.
//
// It is root's to do for a thread that runs; a service manager can do it for the whole
// process (timer slack, prctl(2)).
func CalmMonitor(slack time.Duration) error {
	tids, err := threads()
	if err != nil {
		return err
	}
	// The monitor is the first thread that the runtime starts. Numbers wrap around.
	main := os.Getpid()
	slices.SortFunc(tids, func(a, b int) int { return order(a, main) - order(b, main) })
	if len(tids) < 2 {
		return errors.New("the Go runtime has no monitor")
	}
	path := fmt.Sprintf("/proc/%d/timerslack_ns", tids[1])
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(strconv.FormatInt(slack.Nanoseconds(), 10))
	return err
}

// order is a thread's place among those that were started after main.
func order(tid, main int) int {
	if tid < main {
		return tid + 1<<22 // the most that pid_max can be
	}
	return tid
}

// threads are those of this process.
func threads() (tids []int, err error) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			return nil, err
		}
		tids = append(tids, tid)
	}
	return tids, nil
}

package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// NoPreempt has this process wait until whoever runs on a CPU gives it up, or has had
// its share, when it is woken (SCHED_BATCH, sched(7)). On a CPU that is free nothing
// changes. A daemon that sends many small answers, as xenstored does, is not
// interrupted by each of them. Threads that are started later inherit it.
func NoPreempt() error {
	tids, err := threads()
	if err != nil {
		return err
	}
	for _, tid := range tids {
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH}
		if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return os.NewSyscallError("sched_setattr", err)
		}
	}
	return nil
}

package sys

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What comes over a terminal wakes nobody who waits for its end.
func TestHangup(t *testing.T) {
	master, err := OpenPTMX()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	rc, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n, err := PTYNumber(rc)
	if err == nil {
		err = UnlockPTY(rc)
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err := OpenUnpolled(fmt.Sprint("/dev/pts/", n))
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	if err := tty.SetReadDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
		t.Errorf("it is on the netpoller: %v", err)
	}
	rcTTY, err := tty.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	wait := func() (*Hangup, <-chan error) {
		h, err := WatchHangup(rcTTY)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- h.Wait() }()
		return h, ended
	}
	first, closed := wait()
	second, hungUp := wait()
	defer second.Close()
	if _, err := master.WriteString("something\n"); err != nil {
		t.Fatal(err)
	}
	for { // until it has come
		if r, err := PollNow(rcTTY); err != nil || r.Hangup {
			t.Fatal(r, err)
		} else if r.In {
			break
		}
	}
	err = second.rc.Control(func(fd uintptr) {
		if n, err := unix.EpollWait(int(fd), make([]unix.EpollEvent, 1), 0); n != 0 || err != nil {
			t.Errorf("input wakes who waits for a hang-up: %d events, %v", n, err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := <-closed; err == nil {
		t.Error("Close did not end it")
	}
	master.Close()
	select {
	case err := <-hungUp:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the hang-up was not seen")
	}
}

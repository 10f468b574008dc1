package sys

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCalmMonitor(t *testing.T) {
	if !byItself(t) {
		return
	}
	const slack = 7 * time.Millisecond
	err := CalmMonitor(slack)
	if os.Geteuid() != 0 {
		if err == nil {
			t.Error("somebody without rights may do it")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	tids, err := threads()
	if err != nil {
		t.Fatal(err)
	}
	var calm []int
	for _, tid := range tids {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/timerslack_ns")
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(text)) == strconv.FormatInt(slack.Nanoseconds(), 10) {
			calm = append(calm, tid)
		}
	}
	if len(calm) != 1 {
		t.Fatalf("of the threads %v these are calm: %v", tids, calm)
	}
	// Only the monitor sleeps by the clock while others work.
	asleep := 0
	for range 100 {
		text, err := os.ReadFile("/proc/self/task/" + strconv.Itoa(calm[0]) + "/syscall")
		if err != nil {
			t.Fatal(err)
		}
		if number, _, _ := strings.Cut(string(text), " "); number == strconv.Itoa(syscall.SYS_NANOSLEEP) {
			asleep++
		}
		for end := time.Now().Add(time.Millisecond); time.Now().Before(end); {
		}
	}
	if asleep < 10 {
		t.Errorf("the thread that is calm sleeps %d %% of the time: it is not the monitor", asleep)
	}
}

package sys

import (
	"os"
	"strings"
	"testing"
)

func TestNoPreempt(t *testing.T) {
	if !byItself(t) {
		return
	}
	if err := NoPreempt(); err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile("/proc/self/task/" + task.Name() + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		// Field 41 of proc_pid_stat(5); rest begins with the third.
		if policy := strings.Fields(rest)[41-3]; policy != "3" {
			t.Errorf("thread %s has policy %s, SCHED_BATCH is 3", task.Name(), policy)
		}
	}
}

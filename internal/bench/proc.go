package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// memory is what of a process's memory nobody else has, in bytes (proc_pid_smaps(5),
// Private_Clean and Private_Dirty). The kernel counts shared memory as private that
// only one process maps, so rings and spools are counted apart.
type memory struct{ own, rings, spools int64 }

func memoryOf(pid int) (memory, error) {
	var m memory
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return m, err
	}
	into := &m.own
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		line := lines.Text()
		key, value, isField := strings.Cut(line, ":")
		switch {
		case !isField || strings.Contains(key, "-"): // a mapping begins: its range, rights and file
			into = &m.own
			if strings.Contains(line, "memfd:xensim") {
				into = &m.rings
			} else if strings.Contains(line, "/daemon.spool/") {
				into = &m.spools
			}
		case strings.HasPrefix(key, "Private_"):
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return m, err
			}
			*into += n << 10
		}
	}
	return m, nil
}

// work is what a process has done.
type work struct {
	cpu     time.Duration
	wakeups int64 // times that one of its threads went to sleep by itself
}

func workOf(pid int) (work, error) {
	var w work
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return w, err
	}
	for _, task := range tasks {
		sched, err := os.ReadFile(task + "/schedstat")
		if err != nil {
			return w, err
		}
		ns, err := strconv.ParseInt(string(bytes.Fields(sched)[0]), 10, 64)
		if err != nil {
			return w, err
		}
		w.cpu += time.Duration(ns)
		status, err := os.ReadFile(task + "/status")
		if err != nil {
			return w, err
		}
		_, after, _ := bytes.Cut(status, []byte("\nvoluntary_ctxt_switches:"))
		n, err := strconv.ParseInt(string(bytes.Fields(after)[0]), 10, 64)
		if err != nil {
			return w, err
		}
		w.wakeups += n
	}
	return w, nil
}

// during is what a process does while f runs.
func during(pid int, f func() error) (work, error) {
	before, err := workOf(pid)
	if err != nil {
		return before, err
	}
	if err := f(); err != nil {
		return before, err
	}
	after, err := workOf(pid)
	return work{after.cpu - before.cpu, after.wakeups - before.wakeups}, err
}

// descriptors is how many a process has open.
func descriptors(pid int) (int, error) {
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(all), err
}

// Package rig is real Xen on any Linux machine: it builds a small dom0 and
// guests from Debian packages, boots Xen under QEMU's software emulation, and
// runs programs in dom0. Command rigctl is its command line, and as
//
//	go test -tags xen -exec 'bin/rigctl test' ./...
//
// it makes ordinary Go tests run inside dom0, where package xlguest starts
// guests for them. One boot serves all test binaries that come within some
// minutes of each other.
//
// All state is in one folder (see [Open]): unpacked packages, images, and for each
// machine that runs a folder run-KIND: its serial console (console.log), what the
// emulator said (qemu.log), and share/, which is /rig in dom0. Nothing needs root.
package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
)

// Options say what a machine is like.
type Options struct {
	// OXenstored selects the OCaml xenstored instead of the C one. There may be a
	// machine of each kind at once.
	OXenstored bool
	// Idle is how long a machine without a job stays up; 0 = for ever.
	Idle time.Duration
}

// Rig is a folder with images, and one machine that runs or not. Several processes
// may use one folder; the methods of one Rig are for one goroutine.
type Rig struct {
	Options
	dir    string
	inside string    // where dom0 has the shared folder
	key    string    // this version of the builder
	log    io.Writer // progress
}

// machine is what machine.json says about a machine that was started.
type machine struct {
	PID int    `json:"pid"`
	Key string `json:"key"` // version of the builder that started it
}

// Open uses the folder .cache/rig of the Go module around the current directory.
// Progress is told on log.
func Open(log io.Writer, o Options) (*Rig, error) {
	top, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	key, err := sourceKey()
	if err != nil {
		return nil, err
	}
	r := &Rig{Options: o, dir: filepath.Join(top, ".cache", "rig"), inside: "/rig", key: key, log: log}
	return r, os.MkdirAll(r.run("share"), 0o777)
}

func moduleRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if exists(filepath.Join(dir, "go.mod")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod in %s or above it", start)
		}
	}
}

// kind names the machine among those of its folder.
func (o Options) kind() string {
	if o.OXenstored {
		return "o"
	}
	return "c"
}

// run is a path in the folder of the running machine.
func (r *Rig) run(elem ...string) string {
	return filepath.Join(append([]string{r.dir, "run-" + r.kind()}, elem...)...)
}

func (r *Rig) logf(format string, args ...any) {
	fmt.Fprintf(r.log, "rig: "+format+"\n", args...)
}

// lock keeps other processes from building, starting and stopping.
func (r *Rig) lock(ctx context.Context) (unlock func(), err error) {
	return r.waitLock(ctx, "lock")
}

// Reserve waits until no other process has reserved the machine, and keeps it
// until release is called: tests run one after the other, because each may replace
// the machine and destroys the guests of a failure. Reserve before Up.
func (r *Rig) Reserve(ctx context.Context) (release func(), err error) {
	return r.waitLock(ctx, "reserved-"+r.kind())
}

func (r *Rig) waitLock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		f, err := sys.LockFile(filepath.Join(r.dir, name))
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another process uses the rig: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Build makes the images unless they are up to date.
func (r *Rig) Build(ctx context.Context) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = r.build(ctx)
	return err
}

// Up starts the machine, or keeps it when it runs and is of this version of the
// builder. It returns when dom0 takes jobs.
func (r *Rig) Up(ctx context.Context) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if r.alive() {
		if m, err := r.machine(); err == nil && m.Key == r.key && exists(r.run("share", "ready")) {
			return nil
		}
		r.logf("the running machine is of another version, stopping it")
		if err := r.kill(); err != nil {
			return err
		}
	}
	images, err := r.build(ctx)
	if err != nil {
		return err
	}
	return r.boot(ctx, images)
}

// Running reports whether the machine takes jobs, of whatever version it is.
func (r *Rig) Running() bool { return r.alive() && exists(r.run("share", "ready")) }

// Down stops the machine, if it runs. Nothing in it is kept.
func (r *Rig) Down(ctx context.Context) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return r.kill()
}

// alive reports whether a machine runs: the emulator holds a lock from its start
// to its end, however that comes.
func (r *Rig) alive() bool {
	f, err := sys.LockFile(r.run("alive"))
	if err != nil {
		return errors.Is(err, syscall.EWOULDBLOCK)
	}
	f.Close()
	return false
}

func (r *Rig) machine() (machine, error) {
	var m machine
	data, err := os.ReadFile(r.run("machine.json"))
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(data, &m)
}

// kill ends the emulator. Caller holds the lock.
func (r *Rig) kill() error {
	if !r.alive() {
		return nil
	}
	m, err := r.machine()
	if err != nil {
		return fmt.Errorf("a machine runs, but which? %w", err)
	}
	p, err := os.FindProcess(m.PID)
	if err != nil {
		return err
	}
	r.logf("the machine with xenstored in %s has taken %.0f s of processor time", r.language(), processorTime(m.PID))
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping the emulator, process %d: %w", m.PID, err)
	}
	for range 100 {
		if !r.alive() {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("the emulator, process %d, does not end", m.PID)
}

// processorTime is what a process and its threads have used, in seconds; 0 if that
// cannot be told.
func processorTime(pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), ") ") // behind the name
	fields := strings.Fields(rest)
	const user, system, perSecond = 11, 12, 100 // proc_pid_stat(5); USER_HZ
	if len(fields) <= system {
		return 0
	}
	a, _ := strconv.Atoi(fields[user])
	b, _ := strconv.Atoi(fields[system])
	return float64(a+b) / perSecond
}

// Status says in one line whether the machine runs.
func (r *Rig) Status() string {
	if !r.alive() {
		return "down"
	}
	m, err := r.machine()
	if err != nil {
		return "up: " + err.Error()
	}
	return "up: process " + strconv.Itoa(m.PID) + ", xenstored in " + r.language()
}

func (o Options) language() string {
	if o.OXenstored {
		return "OCaml"
	}
	return "C"
}

// ConsoleTail is the end of the serial console's log and of what the emulator
// said, to explain a failure.
func (r *Rig) ConsoleTail() string {
	var b strings.Builder
	for _, name := range []string{"console.log", "qemu.log"} {
		data, err := os.ReadFile(r.run(name))
		if err != nil || len(data) == 0 {
			continue
		}
		const lines = 40
		all := strings.Split(strings.TrimRight(strings.ReplaceAll(string(data), "\r", ""), "\n"), "\n")
		fmt.Fprintf(&b, "--- end of %s\n%s\n", r.run(name), strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
	return b.String()
}

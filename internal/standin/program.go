package standin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// RestoreLost is a first argument of the host's program: nothing is to be done but to
// make the channel that libxl has lost, for who has handed over the others.
const RestoreLost = "--restore-lost"

// ProgramVar is the variable of the environment that has the path of the program that
// has made itself another one, which is no QEMU either.
const ProgramVar = "XENCHAN_DM"

// Program is the small program, which does what each new domain waits for, and leaves
// all else to the host's program, whose start takes longer.
type Program struct {
	// Self and Host are the paths of the two.
	Self, Host string
	RunDir     string
	// Env is the environment of the other.
	Env []string
	// Exec and Start are system calls; tests have others.
	Exec  func(path string, argv, env []string) error
	Start func(path string, argv, env []string) error
}

// Here is the program that runs.
func Here() Program {
	p := Program{RunDir: "/run/xenchan", Env: os.Environ(), Exec: syscall.Exec, Start: startLater}
	p.Self, _ = os.Readlink("/proc/self/exe")
	p.Host = filepath.Join(filepath.Dir(p.Self), "xenchan")
	return p
}

// Main is a device model with libxl's command line; it returns the exit status.
func (p Program) Main(argv []string) int {
	err := p.main(argv)
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "xenchan-dm: %v\n", err)
	return 1
}

func (p Program) main(argv []string) error {
	request, err := Parse(argv[1:])
	known := func(v string) bool {
		return strings.HasPrefix(v, "XENCHAN_HOST=") || strings.HasPrefix(v, "XENSTORED_PATH=")
	}
	if err != nil || request.Probe || request.Machine != MachinePV || slices.ContainsFunc(p.Env, known) {
		return p.become(argv)
	}
	syscall.Umask(0o077) // QMP sockets are for root alone
	loop := &Loop{Request: request, RunDir: p.RunDir, Log: logLine}
	if err := loop.Listen(); err != nil {
		return err
	}
	defer loop.Close()
	verdict, _, err := loop.HandOver()
	if err != nil {
		return err
	}
	if verdict != Ready {
		loop.Close()
		return p.become(argv)
	}
	logLine(fmt.Sprintf("the daemon serves the consoles of this domain, domid=%v", request.DomID))
	loop.Left = func() {
		loop.Left = nil
		if !request.Lost() {
			return
		}
		if err := p.Start(p.Host, slices.Insert(slices.Clone(argv), 1, RestoreLost), p.env()); err != nil {
			logLine(fmt.Sprintf("a channel is missing: %s: %v", p.Host, err))
		}
	}
	if err := loop.Run(); !errors.Is(err, ErrQEMU) {
		return err
	}
	loop.Close()
	return p.become(argv)
}

// become is the host's program from now on.
func (p Program) become(argv []string) error {
	return fmt.Errorf("%s, which has to be in the same directory: %w", p.Host, p.Exec(p.Host, argv, p.env()))
}

func (p Program) env() []string { return append(slices.Clone(p.Env), ProgramVar+"="+p.Self) }

// logLine writes a line as the host's program does.
func logLine(what string) {
	fmt.Fprintf(os.Stderr, "time=%s level=INFO msg=%q\n", time.Now().UTC().Format(time.RFC3339), what)
}

// startLater starts a program that gives way to all others: libxl is about to let the
// domain run. Nobody waits for its end but a thread of its own; with that it ends.
func startLater(path string, argv, env []string) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // its priority is not for others
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19)
		pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
			Env: env, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM},
		})
		started <- err
		if err == nil {
			_, _ = syscall.Wait4(pid, nil, 0, nil)
		}
	}()
	return <-started
}

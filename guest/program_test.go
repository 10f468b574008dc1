package guest

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/internal/sys"
)

// startProgram runs a program that has a terminal open, until stop is called.
func startProgram(t *testing.T, program string, args ...string) (stop func()) {
	t.Helper()
	path := args[len(args)-1]
	tty, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	cmd := exec.Command(program, args[:len(args)-1]...)
	cmd.Stdin, cmd.Stderr = tty, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
}

func isRaw(path string) error {
	tty, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer tty.Close()
	rc, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	got, err := sys.GetTermios(rc)
	if err == nil && got != sys.RawTermios(got) {
		err = fmt.Errorf("%s is not raw", path)
	}
	return err
}

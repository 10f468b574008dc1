package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
)

// emulator is the program that Xen runs in.
const emulator = "qemu-system-x86_64"

// bootLimit is how long dom0 may take to be ready; a quiet machine needs 10 s.
const bootLimit = 3 * time.Minute

// processor is the emulated CPU. Without what is taken off: smap crashes dom0;
// with xsave, processes of domains that share a CPU damage each other's SSE
// registers; erms and fsrm make the kernel copy with "rep movsb", which is
// emulated byte by byte.
const processor = "max,-smap,-erms,-fsrm,-xsave"

// dom0Kernel are arguments of dom0's kernel: little output, and none of the
// work that only a real machine needs.
const dom0Kernel = "console=hvc0 quiet mitigations=off cryptomgr.notests rodata=off"

// boot starts the emulator as a process of its own, which outlives this one, and
// waits for dom0. Caller holds the lock, and no machine runs.
func (r *Rig) boot(ctx context.Context, images string) error {
	start := time.Now()
	if err := r.cleanRun(); err != nil {
		return err
	}
	cmd := exec.Command(emulator, r.arguments()...)
	cmd.Dir = images
	// Its own session: an interrupt at the terminal is for us alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	log, err := os.Create(r.run("qemu.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	held, err := sys.LockFile(r.run("alive"))
	if err != nil {
		return err
	}
	defer held.Close()
	cmd.ExtraFiles = []*os.File{held} // see alive
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := r.remember(cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }() // ends with the emulator, or with us
	if err := r.waitReady(ctx, exited); err != nil {
		_ = cmd.Process.Kill() // it may have ended itself
		return fmt.Errorf("booting Xen: %w\n%s", err, r.ConsoleTail())
	}
	r.logf("Xen is up after %.1f s, xenstored in %s", time.Since(start).Seconds(), r.language())
	return nil
}

// cleanRun empties the folder of the running machine.
func (r *Rig) cleanRun() error {
	if err := os.RemoveAll(r.run()); err != nil {
		return err
	}
	for _, d := range []string{"new", "in", "job"} {
		if err := os.MkdirAll(r.run("share", d), 0o777); err != nil {
			return err
		}
	}
	return nil
}

func (r *Rig) remember(pid int) error {
	data, err := json.Marshal(machine{PID: pid, Key: r.key})
	if err != nil {
		return err
	}
	return os.WriteFile(r.run("machine.json"), data, 0o666)
}

func (r *Rig) waitReady(ctx context.Context, exited <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if exists(r.run("share", "ready")) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-exited:
			return fmt.Errorf("the emulator ended: %w", err)
		case <-tick.C:
		}
	}
}

// arguments is the emulator's command line; it runs in the images' folder, so
// that their names need no quoting.
func (r *Rig) arguments() []string {
	dom0 := fmt.Sprintf("%s rig.xenstored=%s rig.idle=%d", dom0Kernel, r.kind(), int(r.Idle.Seconds()))
	quote := func(path string) string { return strings.ReplaceAll(path, ",", ",,") }
	return []string{
		"-accel", "tcg,thread=multi,tb-size=512",
		"-machine", "pc", "-cpu", processor, "-smp", "2", "-m", "2048",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-serial", "file:" + r.run("console.log"),
		"-device", "isa-debug-exit,iobase=0xf4,iosize=0x1",
		"-virtfs", "local,path=" + quote(r.run("share")) + ",mount_tag=rig,security_model=none,multidevs=remap",
		"-kernel", hypervisorFile,
		// One virtual CPU for dom0 leaves the other real one to a guest.
		"-append", "dom0_mem=1024M dom0_max_vcpus=1 console=com1 com1=115200,8n1 loglvl=warning",
		"-initrd", kernelFile + " " + dom0 + "," + dom0File,
	}
}

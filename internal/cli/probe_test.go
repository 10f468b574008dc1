package cli

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Before it starts a device model libxl of 4.20 and later starts one without a domain,
// with a socket that it has made itself, and asks for its options (libxl_dm.c,
// device_model_probe_cmdline). It waits for the answer, and kills the process whatever
// that has done. Neither a daemon nor Xen is needed.
func TestDeviceModel_probe(t *testing.T) {
	for _, end := range []string{"quit", "hangup"} {
		t.Run(end, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "qmp")
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			f, err := l.File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			cmd := exec.Command("xenchan-dm", strings.Fields("-S -no-user-config -nodefaults -nographic -machine none,accel=xen "+
				"-chardev socket,id=libxl-cmd,fd=3,server=on,wait=off -mon chardev=libxl-cmd,mode=control")...)
			cmd.ExtraFiles = []*os.File{f}
			cmd.Env = append(os.Environ(), "XENCHAN_HOST=xen", "XENSTORED_PATH="+path+".none")
			var log strings.Builder
			cmd.Stderr = &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(c)
			hear := func() string {
				line, err := r.ReadString('\n')
				if err != nil {
					t.Fatalf("%v\n%s", err, log.String())
				}
				return strings.TrimSpace(line)
			}
			if hello := hear(); !strings.HasPrefix(hello, `{"QMP": {"version": {"qemu": {`) {
				t.Errorf("%s", hello)
			}
			for id, step := range [][2]string{{"qmp_capabilities", "{}"}, {"query-command-line-options", "[]"}, {"quit", "{}"}} {
				if step[0] == "quit" && end != "quit" {
					continue
				}
				fmt.Fprintf(c, "{\"execute\":%q,\"id\":%d}\r\n", step[0], 0x786c7100+id)
				if got, want := hear(), fmt.Sprintf(`{"return":%s,"id":%d}`, step[1], 0x786c7100+id); got != want {
					t.Errorf("%s: %s, want %s", step[0], got, want)
				}
			}
			if end != "quit" {
				if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v\n%s", err, log.String())
			}
		})
	}
}

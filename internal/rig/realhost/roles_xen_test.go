//go:build xen

package realhost

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// A daemon in a plain guest, a driver domain, serves another guest: with the
// xenbus device for a store, and no more rights than such a domain has.
func TestDriverDomain(t *testing.T) {
	binary, err := exec.LookPath("xenchan")
	if err != nil {
		t.Fatal(err)
	}
	back := xlguest.Start(t, xlguest.Config{Name: "driver", Agent: true, MemoryMiB: 192, Files: map[string]string{"/usr/bin/xenchan": binary}})
	for _, module := range []string{"xen_gntdev", "xen_evtchn"} {
		said := back.Run("rmmod " + module + "; xenchan doctor; insmod /modules/" + module + ".ko")
		if want := "load its driver: modprobe " + strings.ReplaceAll(module, "_", "-"); !strings.Contains(said, want) {
			t.Errorf("doctor without the module %s does not say %q:\n%s", module, want, said)
		}
	}
	back.Run("mkdir -p /run /dev/pts; mount -t devpts d /dev/pts 2>/dev/null; xenchan daemon --verbose >/tmp/log 2>&1 </dev/null &")
	// The backend by its name, from the boot; and by its domid, hot-plugged.
	xenchan(t, "create", xlguest.WriteConfig(t, xlguest.Config{Name: "user", Extra: `channel = [ "connection=pty,name=org.example.d.0,backend=driver" ]`}))
	front := xlguest.Adopt(t, "user")
	front.Wait("GUEST UP")
	defer func() {
		if t.Failed() {
			xlguest.Dump(t, "the daemon's log", back.Run("cat /tmp/log"))
			xlguest.Dump(t, "the store", xenstoreLS(t))
		}
	}()
	tty := connected(t, front.Name(), "org.example.d.0")["org.example.d.0"].TTY
	if again := attach(t, front.Name(), "connection=pty,name=org.example.byid.0,backend="+back.DomID().String()); again == tty || again == "" {
		t.Errorf("terminals %q and %q", tty, again)
	}
	echoAgent(front, "/dev/hvc1")
	for i := range 3 {
		word := fmt.Sprintf("hello-%d", i)
		got := back.Run(fmt.Sprintf("exec 3<>%s; stty raw -echo <&3; echo %s >&3; timeout 180 head -c %d <&3", tty, word, len(word)+1))
		if !strings.Contains(got, word) {
			t.Errorf("the driver domain's client got %q", got)
		}
	}
	rows := connected(t, front.Name(), "org.example.d.0", "org.example.byid.0")
	for name, c := range rows {
		if c.BackendDomID != uint16(back.DomID()) {
			t.Errorf("%s: %+v", name, c)
		}
	}
	xenchan(t, "detach", front.Name(), "org.example.d.0")
	xenchan(t, "destroy", front.Name())
	nodesGo(t, "org.example.d.0", "org.example.byid.0")
}

package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/storeserver"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// kernel stands in for Linux with hvc_xen: sysfs, terminals and xenstore.
type kernel struct {
	t                   testing.TB
	sysfs, irqs         string
	dev, run            string
	links               string
	dom0, guest         *xenstore.Store
	slots               [ttys]*pty
	consoles            []int       // devids in the order in which their devices came
	devices             map[int]int // how often the driver took one
	irq                 map[int]int // of each console
	robbed              int         // the console whose interrupt goes with the next one that is lost
	meanwhile           func()      // what the host does while the driver takes the next one
	last                int         // highest terminal ever given
	neverReuse, primary bool        // as old kernels
	domid               int
	abandoned           time.Duration
	opened              func(*pty) // somebody has a terminal open, and the holder looks
	log                 logBuffer
	mu                  sync.Mutex // held by each change, which come from two goroutines
}

// logBuffer is what the holder says.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// pty is a terminal, and what the host holds of it.
type pty struct {
	devid, irq    int
	path          string
	master, slave *os.File
}

func (p *pty) close() {
	p.master.Close()
	p.slave.Close()
}

func newKernel(t testing.TB) *kernel {
	t.Helper()
	// In a tmpfs, as in sysfs, inode numbers grow.
	base, err := os.MkdirTemp("/dev/shm", "xenchan-guest")
	if err != nil {
		t.Fatalf("this test needs a tmpfs at /dev/shm: %v", err)
	}
	k := &kernel{
		t: t, sysfs: filepath.Join(base, "driver"), irqs: filepath.Join(base, "irq"), dev: filepath.Join(base, "dev"), run: filepath.Join(base, "run"),
		links: filepath.Join(base, "dev/xen-channel"), devices: make(map[int]int), irq: make(map[int]int), primary: true, domid: 1,
	}
	server := storeserver.New(storeserver.Config{})
	var wg sync.WaitGroup
	t.Cleanup(func() {
		k.dom0.Close()
		k.guest.Close()
		server.Close()
		wg.Wait()
		for _, p := range k.slots {
			if p != nil {
				p.close()
			}
		}
		os.RemoveAll(base)
	})
	for _, d := range []string{k.sysfs, k.irqs, k.dev, filepath.Join(base, "devices")} {
		k.check(os.MkdirAll(d, 0o755))
	}
	open := func(dom xen.DomID) *xenstore.Store {
		here, there := net.Pipe()
		wg.Go(func() { server.ServeConn(there, dom) })
		return xenstore.New(here)
	}
	k.dom0 = open(0)
	k.check(server.IntroduceDomain(1))
	home := wire.Perms{{Access: wire.AccessNone, DomID: 1}}
	k.check(k.dom0.Write(t.Context(), "/local/domain/1/domid", "1"))
	k.check(k.dom0.Write(t.Context(), "/local/domain/1/console/port", "2"))
	for _, n := range []string{"", "/domid", "/console", "/console/port"} {
		k.check(k.dom0.SetPerms(t.Context(), "/local/domain/1"+n, home))
	}
	k.guest = open(1)
	k.newIRQ(0, "xen-dyn") // the primary console's
	k.newIRQ(-1, "IO-APIC")
	return k
}

func (k *kernel) check(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k *kernel) ctx() context.Context { return context.Background() }

func (k *kernel) config() Config {
	return Config{Store: k.guest, Dir: k.links, abandoned: k.abandoned, sysfs: k.sysfs, irqs: k.irqs, dev: k.dev, run: k.run, driver: k.driver, handler: k.handler,
		Log: slog.New(slog.NewTextHandler(io.MultiWriter(k.t.Output(), &k.log), nil))}
}

// newIRQ gives a console an interrupt, with the lowest number that is free.
func (k *kernel) newIRQ(devid int, chip string) {
	number := 5
	for {
		err := os.Mkdir(filepath.Join(k.irqs, strconv.Itoa(number)), 0o755)
		if err == nil {
			break
		}
		number++
	}
	k.irq[devid] = number
	k.check(os.WriteFile(filepath.Join(k.irqs, strconv.Itoa(number), "chip_name"), []byte(chip+"\n"), 0o644))
}

func (k *kernel) freeIRQ(devid int) {
	k.check(os.RemoveAll(filepath.Join(k.irqs, strconv.Itoa(k.irq[devid]))))
	delete(k.irq, devid)
}

// handler is there while somebody but the driver has the terminal open.
func (k *kernel) handler(dir string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	number, err := strconv.Atoi(filepath.Base(dir))
	k.check(err)
	if number == k.irq[0] || number == k.irq[-1] {
		return "hvc_console"
	}
	for _, p := range k.slots {
		if p == nil || p.irq != number {
			continue
		}
		fds, _ := filepath.Glob("/proc/self/fd/*")
		tty, err := os.Stat(p.path)
		k.check(err)
		open := 0
		for _, fd := range fds {
			if f, err := os.Stat(fd); err == nil && os.SameFile(f, tty) {
				open++
			}
		}
		if open > 1 {
			if k.opened != nil {
				k.opened(p)
			}
			return "hvc_console"
		}
	}
	return ""
}

func node(devid int) string { return "/local/domain/1/device/console/" + strconv.Itoa(devid) }

// plug adds a console as the host and then the driver do.
func (k *kernel) plug(devid int, name string) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.plugAs(devid, name)
}

func (k *kernel) plugAs(devid int, name string) {
	k.nodes(devid, name, "1")
	k.probe(devid)
	k.nodes(devid, name, "3")
}

// atOnce has all of that happen while nobody can see what the interrupts do. plugged,
// unplugged and resume are what can.
func (k *kernel) atOnce(happens func()) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	happens()
}

func (k *kernel) plugged(devid int) { k.plugAs(devid, name(devid)) }

// probe has the driver take a device.
func (k *kernel) probe(devid int) {
	k.t.Helper()
	k.devices[devid]++
	id := fmt.Sprintf("console-%d", devid)
	dir := filepath.Join(filepath.Dir(k.sysfs), "devices", id)
	if !slices.Contains(k.consoles, devid) {
		k.check(os.Mkdir(dir, 0o755))
		k.consoles = append(k.consoles, devid)
	}
	k.check(os.Symlink(dir, filepath.Join(k.sysfs, id)))
	k.newIRQ(devid, "xen-dyn-lateeoi")
	k.alloc(devid)
}

// driver is what happens at a write to bind or unbind, in the holder's goroutine.
func (k *kernel) driver(file, id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	devid, err := strconv.Atoi(strings.TrimPrefix(id, "console-"))
	k.check(err)
	_, err = os.Lstat(filepath.Join(k.sysfs, id))
	if bound := err == nil; bound != (file == "unbind") {
		return syscall.ENODEV
	}
	state := node(devid) + "/state"
	if file == "unbind" {
		k.release(devid)
		delete(k.irq, devid) // the kernel does not free it
		if k.robbed != 0 && k.robbed != devid {
			k.freeIRQ(k.robbed)
			k.robbed = 0
		}
		k.check(os.Remove(filepath.Join(k.sysfs, id)))
		if ok, err := k.dom0.Exists(k.ctx(), state); err != nil || ok {
			k.check(errors.Join(err, k.dom0.Write(k.ctx(), state, "6")))
		}
		return nil
	}
	if f := k.meanwhile; f != nil {
		k.meanwhile = nil
		f()
		return syscall.ENOENT // the driver's transaction finds no node
	}
	theirs, err := k.dom0.Read(k.ctx(), backend(devid)+"/state")
	k.check(err)
	k.probe(devid)
	if theirs != "1" && theirs != "2" {
		return k.dom0.Write(k.ctx(), state, "6") // the backend ends what was, and the driver follows
	}
	return k.dom0.Write(k.ctx(), state, "3")
}

// restoreWithout restores the guest while the nodes of some consoles are not there,
// which the kernel leaves as they are. Before any process runs, then is called.
func (k *kernel) restoreWithout(then func(), missing ...int) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, devid := range missing {
		k.check(k.dom0.Remove(k.ctx(), node(devid)))
	}
	k.resume(missing...)
	then()
}

// backend is a directory of the host's, which answers a frontend that begins anew
// like xenbus.Backend.
func backend(devid int) string { return "/local/domain/0/backend/console/1/" + strconv.Itoa(devid) }

func (k *kernel) serve(devid int) {
	for n, v := range map[string]string{"state": "2", "online": "1"} {
		k.check(k.dom0.Write(k.ctx(), backend(devid)+"/"+n, v))
		k.check(k.dom0.SetPerms(k.ctx(), backend(devid)+"/"+n, wire.Perms{{Access: wire.AccessNone}, {Access: wire.AccessRead, DomID: 1}}))
	}
	k.check(k.dom0.Write(k.ctx(), node(devid)+"/backend", backend(devid)))
	k.check(k.dom0.SetPerms(k.ctx(), node(devid)+"/backend", wire.Perms{{Access: wire.AccessNone, DomID: 1}}))
}

func (k *kernel) nodes(devid int, name, state string) {
	k.t.Helper()
	err := k.dom0.Tx(k.ctx(), func(tx *xenstore.Tx) error {
		for n, v := range map[string]string{"name": name, "state": state} {
			if err := tx.Write(k.ctx(), node(devid)+"/"+n, v); err != nil {
				return err
			}
			if err := tx.SetPerms(k.ctx(), node(devid)+"/"+n, wire.Perms{{Access: wire.AccessNone, DomID: 1}}); err != nil {
				return err
			}
		}
		return tx.SetPerms(k.ctx(), node(devid), wire.Perms{{Access: wire.AccessNone, DomID: 1}})
	})
	k.check(err)
}

// alloc is hvc_alloc.
func (k *kernel) alloc(devid int) {
	first := 0
	if k.primary {
		first = 1
	}
	if k.neverReuse {
		first = k.last + 1
	}
	for n := first; n < ttys; n++ {
		if k.slots[n] != nil {
			continue
		}
		master, err := sys.OpenPTMX()
		k.check(err)
		rc, err := master.SyscallConn()
		k.check(err)
		number, err := sys.PTYNumber(rc)
		k.check(err)
		k.check(sys.UnlockPTY(rc))
		slave, err := sys.OpenPTYPeer(rc)
		k.check(err)
		k.slots[n] = &pty{devid, k.irq[devid], fmt.Sprintf("/dev/pts/%d", number), master, slave}
		k.last = max(k.last, n)
		k.check(os.Symlink(fmt.Sprintf("/dev/pts/%d", number), filepath.Join(k.dev, fmt.Sprintf("hvc%d", n))))
		return
	}
	k.t.Fatal("no terminal is free")
}

// release is hvc_remove.
func (k *kernel) release(devid int) {
	for n, p := range k.slots {
		if p != nil && p.devid == devid {
			k.check(os.Remove(filepath.Join(k.dev, fmt.Sprintf("hvc%d", n))))
			p.close()
			k.slots[n] = nil
		}
	}
}

func (k *kernel) unplug(devid int) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unplugged(devid)
}

func (k *kernel) unplugged(devid int) {
	k.t.Helper()
	k.release(devid)
	k.freeIRQ(devid)
	k.check(os.Remove(filepath.Join(k.sysfs, fmt.Sprintf("console-%d", devid))))
	k.check(os.Remove(filepath.Join(filepath.Dir(k.sysfs), "devices", fmt.Sprintf("console-%d", devid))))
	k.consoles = slices.DeleteFunc(k.consoles, func(d int) bool { return d == devid })
	k.check(k.dom0.Remove(k.ctx(), node(devid)))
}

// restore is what happens to a guest that is saved and restored: no process runs
// meanwhile, so a watch fires at its end.
func (k *kernel) restore() {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.resume()
}

func (k *kernel) resume(missing ...int) {
	k.t.Helper()
	var there []int
	for _, devid := range k.consoles {
		if _, err := os.Lstat(filepath.Join(k.sysfs, fmt.Sprintf("console-%d", devid))); err != nil || slices.Contains(missing, devid) {
			continue
		}
		there = append(there, devid)
		k.release(devid)
		k.newIRQ(devid, "xen-dyn-lateeoi")
		k.alloc(devid)
		k.check(k.dom0.Remove(k.ctx(), node(devid)+"/"+channel.GuestNode))
	}
	k.domid++
	k.check(k.dom0.Write(k.ctx(), "/local/domain/1/domid", strconv.Itoa(k.domid)))
	k.check(k.dom0.Mkdir(k.ctx(), "/local/domain/1/device/console"))
	for _, devid := range there {
		k.check(k.dom0.Write(k.ctx(), node(devid)+"/state", "3"))
	}
}

// truth is the terminal of each channel, whose name is name(devid).
func (k *kernel) truth(name func(devid int) string) map[string]string {
	all := make(map[string]string)
	k.mu.Lock()
	defer k.mu.Unlock()
	for n, p := range k.slots {
		if p != nil {
			all[name(p.devid)] = filepath.Join(k.dev, fmt.Sprintf("hvc%d", n))
		}
	}
	return all
}

// linked is what the links say.
func (k *kernel) linked() map[string]string {
	all := make(map[string]string)
	entries, _ := os.ReadDir(k.links)
	for _, e := range entries {
		tty, err := os.Readlink(filepath.Join(k.links, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just gone
		}
		k.check(err)
		all[e.Name()] = tty
	}
	return all
}

// agree waits until the links are true.
func (k *kernel) agree(name func(int) string) {
	k.t.Helper()
	eventually(k.t, func() error {
		want := k.truth(name)
		if got := k.linked(); !maps.Equal(got, want) {
			return fmt.Errorf("links %v, want %v", got, want)
		}
		return nil
	})
}

func eventually(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for range 3000 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(err)
}

// hold runs a holder until the function that it returns is called.
func (k *kernel) hold() (stop func()) {
	k.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	up, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- Hold(ctx, k.config(), func() { close(up) }) }()
	select {
	case <-up:
	case err := <-done:
		k.t.Fatal(err)
	}
	return func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			k.t.Error(err)
		}
	}
}

func (k *kernel) use(devid int) string {
	v, _ := k.dom0.Read(k.ctx(), node(devid)+"/"+channel.GuestNode)
	return v
}

// say sends a line from the host's end of a console.
func (k *kernel) host(devid int) io.ReadWriter {
	for _, p := range k.slots {
		if p != nil && p.devid == devid {
			return p.master
		}
	}
	k.t.Fatal("no such console")
	return nil
}

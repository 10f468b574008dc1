package toolstack_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore"
)

// What libxl writes for a channel, node by node (libxl_console.c,
// libxl__device_console_add), with our type and our further keys.
const socketNodes = `
/libxl/5/device "" n0
/libxl/5/device/console "" n0
/libxl/5/device/console/1 "" n0
/libxl/5/device/console/1/backend "/local/domain/0/backend/console/5/1" n0
/libxl/5/device/console/1/connection "socket" n0
/libxl/5/device/console/1/frontend "/local/domain/5/device/console/1" n0
/libxl/5/device/console/1/frontend-id "5" n0
/libxl/5/device/console/1/group "adm" n0
/libxl/5/device/console/1/mode "0660" n0
/libxl/5/device/console/1/name "org.example.agent.0" n0
/libxl/5/device/console/1/online "1" n0
/libxl/5/device/console/1/origin "attached" n0
/libxl/5/device/console/1/overflow "block" n0
/libxl/5/device/console/1/owner "nobody" n0
/libxl/5/device/console/1/path "/tmp/agent.sock" n0
/libxl/5/device/console/1/protocol "vt100" n0
/libxl/5/device/console/1/spool "65536" n0
/libxl/5/device/console/1/state "1" n0
/local/domain/0/backend/console "" n0
/local/domain/0/backend/console/5 "" n0
/local/domain/0/backend/console/5/1 "" n0,r5
/local/domain/0/backend/console/5/1/connection "socket" n0,r5
/local/domain/0/backend/console/5/1/frontend "/local/domain/5/device/console/1" n0,r5
/local/domain/0/backend/console/5/1/frontend-id "5" n0,r5
/local/domain/0/backend/console/5/1/group "adm" n0,r5
/local/domain/0/backend/console/5/1/instance "INSTANCE" n0,r5
/local/domain/0/backend/console/5/1/mode "0660" n0,r5
/local/domain/0/backend/console/5/1/name "org.example.agent.0" n0,r5
/local/domain/0/backend/console/5/1/online "1" n0,r5
/local/domain/0/backend/console/5/1/overflow "block" n0,r5
/local/domain/0/backend/console/5/1/owner "nobody" n0,r5
/local/domain/0/backend/console/5/1/path "/tmp/agent.sock" n0,r5
/local/domain/0/backend/console/5/1/protocol "vt100" n0,r5
/local/domain/0/backend/console/5/1/spool "65536" n0,r5
/local/domain/0/backend/console/5/1/state "1" n0,r5
/local/domain/5/device/console "" n0,r5
/local/domain/5/device/console/1 "" n5,r0
/local/domain/5/device/console/1/backend "/local/domain/0/backend/console/5/1" n5,r0
/local/domain/5/device/console/1/backend-id "0" n5,r0
/local/domain/5/device/console/1/limit "1048576" n0,r5
/local/domain/5/device/console/1/name "org.example.agent.0" n0,r5
/local/domain/5/device/console/1/output "chardev:libxl-channel1" n0,r5
/local/domain/5/device/console/1/protocol "vt100" n5,r0
/local/domain/5/device/console/1/state "1" n5,r0
/local/domain/5/device/console/1/tty "" n0,r5
/local/domain/5/device/console/1/type "xenchan" n0,r5
`

// The same with a backend in a driver domain, which then owns the backend's nodes.
const ptyNodes = `
/libxl/5/device "" n0
/libxl/5/device/console "" n0
/libxl/5/device/console/1 "" n0
/libxl/5/device/console/1/backend "/local/domain/6/backend/console/5/1" n0
/libxl/5/device/console/1/connection "pty" n0
/libxl/5/device/console/1/frontend "/local/domain/5/device/console/1" n0
/libxl/5/device/console/1/frontend-id "5" n0
/libxl/5/device/console/1/name "con.0" n0
/libxl/5/device/console/1/online "1" n0
/libxl/5/device/console/1/origin "attached" n0
/libxl/5/device/console/1/protocol "vt100" n0
/libxl/5/device/console/1/state "1" n0
/local/domain/5/device/console "" n0,r5
/local/domain/5/device/console/1 "" n5,r6
/local/domain/5/device/console/1/backend "/local/domain/6/backend/console/5/1" n5,r6
/local/domain/5/device/console/1/backend-id "6" n5,r6
/local/domain/5/device/console/1/limit "1048576" n6,r5
/local/domain/5/device/console/1/name "con.0" n6,r5
/local/domain/5/device/console/1/output "pty" n6,r5
/local/domain/5/device/console/1/protocol "vt100" n5,r6
/local/domain/5/device/console/1/state "1" n5,r6
/local/domain/5/device/console/1/tty "" n6,r5
/local/domain/5/device/console/1/type "xenchan" n6,r5
/local/domain/6/backend "" n0,r6
/local/domain/6/backend/console "" n0,r6
/local/domain/6/backend/console/5 "" n0,r6
/local/domain/6/backend/console/5/1 "" n6,r5
/local/domain/6/backend/console/5/1/connection "pty" n6,r5
/local/domain/6/backend/console/5/1/frontend "/local/domain/5/device/console/1" n6,r5
/local/domain/6/backend/console/5/1/frontend-id "5" n6,r5
/local/domain/6/backend/console/5/1/instance "INSTANCE" n6,r5
/local/domain/6/backend/console/5/1/name "con.0" n6,r5
/local/domain/6/backend/console/5/1/online "1" n6,r5
/local/domain/6/backend/console/5/1/protocol "vt100" n6,r5
/local/domain/6/backend/console/5/1/state "1" n6,r5
`

var anyInstance = regexp.MustCompile(`/instance "[A-Z2-7]{26}"`)

func TestAttach_nodes(t *testing.T) {
	instances := make(map[string]bool)
	for _, c := range []struct {
		spec channel.Spec
		want string
	}{
		{channel.Spec{
			Name: "org.example.agent.0", Connection: channel.Socket, Path: "/tmp/agent.sock",
			Mode: 0o660, Owner: "nobody", Group: "adm", Spool: 65536, Overflow: channel.Block,
		}, socketNodes},
		// A terminal has no path of its own choosing.
		{channel.Spec{Name: "con.0", Connection: channel.PTY, Path: "/ignored", Backend: "drv"}, ptyNodes},
	} {
		t.Run(string(c.spec.Connection), func(t *testing.T) {
			h := newHost(t)
			defer h.close()
			before := h.dump()
			_, err := h.tools.Attach(t.Context(), web, c.spec)
			h.check(err)
			want := strings.Split(strings.TrimSpace(c.want), "\n")
			got := h.added(before, h.dump())
			for i := range got {
				if m := anyInstance.FindString(got[i]); m != "" && instances[m] {
					t.Errorf("two channels are %s", m)
				} else {
					instances[m] = true
				}
				got[i] = anyInstance.ReplaceAllString(got[i], `/instance "INSTANCE"`)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("nodes (-want +got):\n%s", diff)
			}
		})
	}
}

// Everything that describes the channel is read-only for the guest, which can
// take its directory away but not put another in its place (XSA-57, XSA-175).
func TestAttach_whatTheGuestCanDo(t *testing.T) {
	h := newHost(t)
	defer h.close()
	c := h.attach("a")
	guest := h.connect(web.ID)
	ctx := t.Context()
	for node, may := range map[string]bool{
		"state": true, "ring-ref": true, "port": true, "backend": true, "backend-id": true, "protocol": true, "new/node": true,
		"name": false, "limit": false, "type": false, "output": false, "tty": false,
	} {
		path := c.Frontend + "/" + node
		if err := guest.Write(ctx, path, "x"); may != (err == nil) || err != nil && !errors.Is(err, fs.ErrPermission) {
			t.Errorf("the guest writes %s: %v", node, err)
		}
		if !may {
			if _, err := guest.Read(ctx, path); err != nil {
				t.Errorf("the guest reads %s: %v", node, err)
			}
			if err := guest.Remove(ctx, path); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("the guest removes %s: %v", node, err)
			}
		}
	}
	if v, err := guest.Read(ctx, c.Backend+"/state"); v != "1" || err != nil {
		t.Errorf("the guest reads the backend's state: %q, %v", v, err)
	}
	for _, path := range []string{c.Backend + "/state", c.Backend + "/new", c.Backend + "/frontend"} {
		if err := guest.Write(ctx, path, "x"); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("the guest writes %s: %v", path, err)
		}
	}
	for _, path := range []string{"/libxl/5/device/console/1/name", "/libxl/5"} {
		if _, err := guest.Read(ctx, path); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("the guest reads %s: %v", path, err)
		}
	}
	for path, want := range map[string]string{
		c.Frontend: "n5,r0", c.Frontend + "/state": "n5,r0", c.Frontend + "/name": "n0,r5", c.Frontend + "/tty": "n0,r5",
		c.Backend: "n0,r5", c.Backend + "/name": "n0,r5",
	} {
		if perms, err := guest.Perms(ctx, path); err != nil || strings.Join(perms.Strings(), ",") != want {
			t.Errorf("the guest sees the rights of %s as %v, %v; want %s", path, perms, err, want)
		}
	}
	h.check(guest.Remove(ctx, c.Frontend))
	if err := guest.Mkdir(ctx, c.Frontend); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("the guest makes its frontend anew: %v", err)
	}
}

func TestAttach_result(t *testing.T) {
	h := newHost(t)
	defer h.close()
	got := h.attach("org.example.agent.0")
	one := 1
	want := toolstack.Channel{
		Info: channel.Info{
			DomID: 5, Domain: "web", UUID: web.UUID, DevID: 1,
			Name: "org.example.agent.0", Connection: channel.Socket, Path: "/run/xenchan/web/org.example.agent.0.sock",
			State: &one, FrontendState: &one, Guest: channel.GuestUnknown, Origin: channel.OriginAttached, ServedBy: channel.ServerNone,
		},
		Type: "xenchan", Frontend: "/local/domain/5/device/console/1", Backend: "/local/domain/0/backend/console/5/1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	nameless := toolstack.Domain{ID: 9}
	h.addDomain(nameless)
	c, err := h.tools.Attach(t.Context(), nameless, socket("a"))
	if err != nil || c.Path != "/run/xenchan/9/a.sock" {
		t.Errorf("in a domain without a name: %s, %v", c.Path, err)
	}
}

func TestAttach_refusalsChangeNothing(t *testing.T) {
	h := newHost(t)
	defer h.close()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	h.check(os.WriteFile(file, []byte("precious"), 0o600))
	h.check(os.Symlink(file, filepath.Join(dir, "link")))
	h.check(os.Mkdir(filepath.Join(dir, "dir"), 0o700))
	h.attach("taken")
	at := func(path string) channel.Spec {
		return channel.Spec{Name: "a", Connection: channel.Socket, Path: path}
	}
	for name, c := range map[string]struct {
		dom  toolstack.Domain
		spec channel.Spec
		run  string
		says string
	}{
		"no name":                {web, channel.Spec{Connection: channel.PTY}, "", "no name"},
		"no connection":          {web, channel.Spec{Name: "a"}, "", "no connection"},
		"bad name":               {web, socket("../a"), "", "'/'"},
		"relative path":          {web, at("a.sock"), "", "not absolute"},
		"long path":              {web, at("/" + strings.Repeat("x", 107)), "", "at most 107"},
		"long default path":      {web, socket("a"), "/" + strings.Repeat("x", 100), "at most 107"},
		"a regular file":         {web, at(file), "", "not a socket"},
		"a link":                 {web, at(filepath.Join(dir, "link")), "", "not a socket"},
		"a directory":            {web, at(filepath.Join(dir, "dir")), "", "not a socket"},
		"no directory":           {web, at(filepath.Join(dir, "no/where/a.sock")), "", "no directory"},
		"a file as directory":    {web, at(filepath.Join(file, "a.sock")), "", "directory"},
		"domain 0":               {toolstack.Domain{ID: 0, Name: "Domain-0"}, socket("a"), "", "control domain"},
		"no such domain":         {toolstack.Domain{ID: 77}, socket("a"), "", "no such domain"},
		"no such backend":        {web, channel.Spec{Name: "a", Connection: channel.PTY, Backend: "dvr"}, "", "did you mean drv?"},
		"no such backend domid":  {web, channel.Spec{Name: "a", Connection: channel.PTY, Backend: "4"}, "", "no such domain"},
		"the name twice":         {web, socket("taken"), "", "already has a channel of this name (devid 1)"},
		"the name twice, as pty": {web, channel.Spec{Name: "taken", Connection: channel.PTY}, "", "already has"},
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			defer h.unchanged()()
			before := files(t, dir)
			tools := *h.tools
			if c.run != "" {
				tools.RunDir = c.run
			}
			got, err := tools.Attach(t.Context(), c.dom, c.spec)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v, %v; want an error that says %q", got, err, c.says)
			}
			if name == "no such domain" && !errors.Is(err, toolstack.ErrNoDomain) {
				t.Errorf("%v is not ErrNoDomain", err)
			}
			if after := files(t, dir); after != before {
				t.Errorf("on disk\n%swas\n%s", after, before)
			}
		})
	}
}

// A socket may be there already, left by a daemon that was killed.
func TestAttach_overASocket(t *testing.T) {
	h := newHost(t)
	defer h.close()
	path := filepath.Join(t.TempDir(), "a.sock")
	l, err := net.Listen("unix", path)
	h.check(err)
	defer l.Close()
	_, err = h.tools.Attach(t.Context(), web, channel.Spec{Name: "a", Connection: channel.Socket, Path: path})
	h.check(err)
	// The path of another domain's backend is on another disk.
	_, err = h.tools.Attach(t.Context(), web, channel.Spec{Name: "b", Connection: channel.Socket, Path: "/no/such/dir/b.sock", Backend: "6"})
	h.check(err)
}

func TestAttach_lowestFreeDevid(t *testing.T) {
	h := newHost(t)
	defer h.close()
	h.write("/libxl/5/device/console/0/frontend", "/local/domain/5/console", "") // the primary one
	h.write("/libxl/5/device/console/2/frontend", "/local/domain/5/device/console/2", "")
	h.write("/libxl/5/device/console/junk", "", "")
	for i, want := range []int{1, 3, 4} {
		if c := h.attach(fmt.Sprintf("c.%d", i)); c.DevID != want {
			t.Errorf("channel %d has devid %d, want %d", i, c.DevID, want)
		}
	}
	h.check(h.tools.Detach(t.Context(), web, "c.0"))
	h.check(h.tools.Detach(t.Context(), web, "c.1"))
	for i, want := range []int{1, 3, 5} {
		if c := h.attach(fmt.Sprintf("d.%d", i)); c.DevID != want {
			t.Errorf("channel %d has devid %d, want %d", i, c.DevID, want)
		}
	}
}

func TestAttach_theEighth(t *testing.T) {
	h := newHost(t)
	defer h.close()
	for i := range 7 {
		h.attach(fmt.Sprintf("c.%d", i))
	}
	defer h.unchanged()()
	_, err := h.tools.Attach(t.Context(), web, socket("one.too.many"))
	if err == nil || !strings.Contains(err.Error(), "hvc1 to hvc7") || !strings.Contains(err.Error(), "detach one first") {
		t.Errorf("%v", err)
	}
}

func TestAttach_concurrently(t *testing.T) {
	h := newHost(t)
	defer h.close()
	won := func(name func(i int) string) (n int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 12 {
			tools := &toolstack.Toolstack{Store: h.connect(0), RunDir: "/run/xenchan"}
			wg.Go(func() {
				if _, err := tools.Attach(context.Background(), web, socket(name(i))); err == nil {
					mu.Lock()
					defer mu.Unlock()
					n++
				}
			})
		}
		wg.Wait()
		return n
	}
	if n := won(func(int) string { return "same" }); n != 1 {
		t.Errorf("%d of 12 made the same channel", n)
	}
	if n := won(func(i int) string { return fmt.Sprintf("c.%d", i) }); n != 6 {
		t.Errorf("%d of 12 found a place, there were 6", n)
	}
	channels, err := h.tools.Channels(t.Context(), web)
	h.check(err)
	for i, c := range channels {
		if c.DevID != i+1 {
			t.Errorf("channel %d has devid %d", i, c.DevID)
		}
	}
	if len(channels) != 7 {
		t.Errorf("%d channels", len(channels))
	}
}

// A guest that writes its nodes before every commit of ours must not keep
// commands from ending: a transaction that has looked at them never would.
func TestCommands_underAGuestThatWrites(t *testing.T) {
	h := newHost(t)
	defer h.close()
	guest := h.connect(web.ID)
	busy := "/local/domain/5/device/console/1"
	writes := 0
	tools := &toolstack.Toolstack{RunDir: "/run/xenchan", Store: h.connectVia(0, func(c net.Conn) net.Conn {
		return beforeCommit{c, func() {
			// Fails while there is no such channel.
			_ = guest.Write(t.Context(), busy+"/state", "4")
			_ = guest.Write(t.Context(), busy+"/port", fmt.Sprint(writes))
			writes++
		}}
	})}
	defer h.unchanged()()
	h.attach("busy")
	soon, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := tools.Attach(soon, web, socket("quick"))
	h.check(err)
	if all, err := tools.Channels(soon, web); err != nil || len(all) != 2 || *all[0].FrontendState != 4 {
		t.Fatal(all, err)
	}
	h.check(tools.Detach(soon, web, "quick"))
	h.check(tools.Detach(soon, web, "busy"))
	if err := soon.Err(); err != nil || writes < 3 || writes > 10 {
		t.Errorf("%d commits, %v", writes, err)
	}
}

func TestWaitConnected(t *testing.T) {
	h := newHost(t)
	defer h.close()
	states := func(c toolstack.Channel, back, front string) {
		h.t.Helper()
		h.write(c.Frontend+"/state", front, "") // first, as a backend follows its frontend
		h.write(c.Backend+"/state", back, "")
	}
	waiting := func(c toolstack.Channel) <-chan error {
		done := make(chan error, 1)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		go func() { defer cancel(); done <- h.tools.WaitConnected(ctx, c) }()
		return done
	}
	c := h.attach("a")
	done := waiting(c)
	for _, s := range [][2]string{{"2", "1"}, {"2", "3"}, {"4", "3"}} {
		states(c, s[0], s[1])
		select {
		case err := <-done:
			t.Fatalf("%v: done, %v", s, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	states(c, "4", "4")
	h.check(<-done)

	states(c, "5", "6")
	if err := <-waiting(c); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a guest that closes: %v", err)
	}
	states(c, "2", "6") // closed before, and to be bound again
	done = waiting(c)
	time.Sleep(5 * time.Millisecond)
	states(c, "4", "4")
	h.check(<-done)

	states(c, "1", "1")
	done = waiting(c)
	h.check(h.tools.Detach(t.Context(), web, "a"))
	if err := <-done; !errors.Is(err, toolstack.ErrNoChannel) {
		t.Errorf("detached meanwhile: %v", err)
	}
	c = h.attach("b")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := h.tools.WaitConnected(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestReadSpec(t *testing.T) {
	h := newHost(t)
	defer h.close()
	read := func(dir string) (channel.Spec, error) {
		return toolstack.ReadSpec(xenstore.NewValues(t.Context(), h.store), dir)
	}
	want := channel.Spec{
		Name: "full", Connection: channel.Socket, Path: "/tmp/full.sock",
		Mode: 0o640, Owner: "nobody", Group: "7", Spool: 1 << 16, Overflow: channel.Block,
	}
	c, err := h.tools.Attach(t.Context(), web, want)
	h.check(err)
	if got, err := read(c.Backend); got != want || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for node, value := range map[string]string{
		"mode": "rw", "spool": "much", "overflow": "never", "name": "a/b", "connection": "tcp", "path": "here", "owner": "a b",
	} {
		old := h.read(c.Backend + "/" + node)
		h.write(c.Backend+"/"+node, value, "")
		if got, err := read(c.Backend); err == nil || !strings.Contains(err.Error(), c.Backend) {
			t.Errorf("%s %q: %+v, %v", node, value, got, err)
		}
		h.write(c.Backend+"/"+node, old, "")
	}
	if _, err := read("/no/such/dir"); err == nil {
		t.Error("no nodes at all make a spec")
	}
}

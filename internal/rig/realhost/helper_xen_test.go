//go:build xen

package realhost

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// helper is a guest with xenchan-guest.
type helper struct {
	*xlguest.Guest
	t *testing.T
}

func startHelper(t *testing.T, c xlguest.Config) helper {
	t.Helper()
	program, err := exec.LookPath("xenchan-guest")
	if err != nil {
		t.Fatalf("this test needs xenchan-guest: rigctl test -with bin/xenchan-guest (%v)", err)
	}
	c.Files = map[string]string{"/usr/bin/xenchan-guest": program}
	h := helper{xlguest.Start(t, c), t}
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), xlguest.Patience)
			defer cancel()
			// To be seen on the console.
			h.Exec(ctx, "ps; ls -l /dev/xen-channel; cat /run/xenchan-guest/terminals /tmp/hold.log /tmp/ga.log /tmp/open.log /tmp/heard; ls -l /proc/[0-9]*/fd | grep hvc; xenchan-guest list")
			t.Log(xenchan(t, "list", h.Name(), "-o", "json"))
		}
	})
	return h
}

// setUp starts what xenchan-guest.service does.
func (h helper) setUp() {
	h.Run("mkdir -p /run /var/log /dev/pts; mount -t devpts devpts /dev/pts; xenchan-guest setup --hold -v >/tmp/hold.log 2>&1 </dev/null &")
	// What comes before a terminal is raw is echoed.
	h.Await("[ -d /dev/xen-channel ]")
}

// startAgent starts what xenchan-qemu-ga.service does.
func (h helper) startAgent() {
	h.Run("xenchan-guest run " + agentName + " -- qemu-ga -m isa-serial -p {} >/tmp/ga.log 2>&1 </dev/null &")
}

// has waits until these channels are connected, and returns what list says of them.
func (h helper) has(names ...string) map[string]channel.Info {
	h.t.Helper()
	return connected(h.t, h.Name(), names...)
}

// held is has, and waits until the guest holds their terminals too: until then Linux
// answers the host with an echo of what it sends, and takes ^C and ^D for its own.
func (h helper) held(names ...string) map[string]channel.Info {
	h.t.Helper()
	return await(h.t, h.Name(), "held by the guest", names, func(c channel.Info) bool {
		return isConnected(c) && (c.Guest == channel.GuestOpen || c.Guest == channel.GuestClosed)
	})
}

// mapping proves where each name leads: the host sends a line over each channel,
// and the guest reads it below the name. Nothing comes back by itself.
func (h helper) mapping(names ...string) {
	h.t.Helper()
	clients := make(map[string]io.Reader)
	rows := h.held(names...)
	// After a restore the nodes may still say so of the terminal that was before.
	wait := "for n in " + strings.Join(names, " ") + "; do xenchan-guest wait --timeout 3m $n >/dev/null || exit 1; done"
	h.Run("(" + wait + ") || { ls -l /dev/xen-channel; cat /tmp/hold.log; exit 1; }")
	for _, n := range names {
		c := client(h.t, rows[n].Path)
		defer c.Close()
		fmt.Fprintf(c, "to %s\r\x03\x04\n", n)
		clients[n] = c
	}
	slices.Sort(names)
	got := h.Run(`for n in ` + strings.Join(names, " ") + `; do
echo "$n $(timeout 180 head -n 1 <>/dev/xen-channel/$n | cat -v)"; echo "from $n" >/dev/xenchannel/$n
done`)
	var want strings.Builder
	for _, n := range names {
		fmt.Fprintf(&want, "%s to %s^M^C^D\n", n, n)
	}
	if got != want.String() {
		h.t.Errorf("the guest reads\n%s\nwant\n%s\n%s", got, want.String(), h.Run("ls -l /dev/xen-channel; cat /tmp/hold.log"))
	}
	for _, n := range names {
		line := make([]byte, len("from ")+len(n)+1)
		if _, err := io.ReadFull(clients[n], line); string(line) != "from "+n+"\n" {
			h.t.Errorf("the host reads %q of %s, %v", line, n, err)
		}
	}
}

// ping waits until the agent answers.
func (h helper) ping(when string) {
	h.t.Helper()
	eventually(h.t, "the agent answers "+when, func() bool {
		_, err := tryXenchan(h.t.Context(), "agent", h.Name(), "ping")
		return err == nil
	})
}

// restore saves the guest and restores it: declared channels come by themselves, before
// or after its kernel has looked, and those plugged in by hand do not.
func (h helper) restore() {
	h.t.Helper()
	file := filepath.Join(h.t.TempDir(), "saved")
	xl(h.t, "save", h.Name(), file)
	eventually(h.t, "the saved domain is gone", func() bool { return gone(h.t, h.Name()) })
	xl(h.t, "restore", file)
	os.Remove(file) // dom0's files are in its memory
	h.Reattach()
}

// opened talks with `xenchan-guest open NAME`, which the guest has started once.
func (h helper) opened(name, when string) {
	h.t.Helper()
	c := client(h.t, h.held(name)[name].Path)
	defer c.Close()
	fmt.Fprintf(c, "%s\n", when)
	h.Await("grep -qsx '" + when + "' /tmp/heard")
	h.Run("echo '" + when + "' >/tmp/say")
	back := make([]byte, len(when)+1)
	if _, err := io.ReadFull(c, back); string(back) != when+"\n" || err != nil {
		h.t.Errorf("open %s, %s: the host reads %q, %v", name, when, back, err)
	}
}

// The helper finds each channel's terminal, whatever is plugged, unplugged and restored;
// keeps it raw; tells the host who has it open; and gives qemu-ga a terminal that outlives
// all that.
func TestHelper(t *testing.T) {
	startDaemon(t).ready()
	spec := func(names ...string) (specs []string) {
		for _, n := range names {
			specs = append(specs, "connection=socket,name="+n)
		}
		return specs
	}
	declare(t, "TestHelper", "a.toml", spec("a", "b", "c", agentName)...)
	xenchan(t, "apply")
	h := startHelper(t, xlguest.Config{Agent: true})
	began := time.Now()
	step := func(what string) {
		t.Logf("%s: %v", what, time.Since(began).Round(100*time.Millisecond))
		began = time.Now()
	}
	h.has("a", "b", "c", agentName)
	h.setUp()
	h.mapping("a", "b", "c", agentName)
	step("four declared channels")

	h.startAgent()
	h.ping("at first")
	eventually(t, "the host sees who is there", func() bool {
		rows := look(t, h.Name())
		return rows[agentName].Guest == channel.GuestOpen && rows["a"].Guest == channel.GuestClosed
	})
	for _, n := range []string{"x", "y", "z"} { // seven are all
		attach(t, h.Name(), "connection=socket,name="+n)
	}
	h.Run("mkfifo /tmp/say; xenchan-guest open x --linger 24h <>/tmp/say >/tmp/heard 2>/tmp/open.log &")
	h.opened("x", "at first")
	h.mapping("a", "b", "c", "y", "z")
	step("seven channels")
	xenchan(t, "detach", h.Name(), "y")
	xenchan(t, "detach", h.Name(), "x")
	attach(t, h.Name(), "connection=socket,name=y")
	attach(t, h.Name(), "connection=socket,name=x")
	h.mapping("y", "z")
	h.opened("x", "plugged in again")
	step("two change places")

	xenchan(t, "detach", h.Name(), agentName) // it is declared, and comes again
	h.ping("after the channel was unplugged")
	declare(t, "TestHelper", "a.toml", spec("a", "c", agentName)...)
	xenchan(t, "apply") // a terminal in front of others is free now
	h.mapping("a", "c", "y", "z")
	step("one is no longer declared")

	h.restore()
	h.mapping("a", "c")
	h.ping("after the guest was restored")
	eventually(t, "the host sees who is there after the restore", func() bool {
		rows := look(t, h.Name())
		return rows[agentName].Guest == channel.GuestOpen && rows["a"].Guest == channel.GuestClosed
	})
	h.Await("[ \"$(xenchan-guest list | tail -n +2 | cut -d' ' -f1 | xargs)\" = 'a c " + agentName + "' ]")
	step("restored")
	attach(t, h.Name(), "connection=socket,name=z")
	attach(t, h.Name(), "connection=socket,name=x")
	h.mapping("a", "c", "z")
	h.opened("x", "after the restore")
	step("plugged in after the restore")
}

//go:build xen

package realhost

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// xenstoreClients are Debian's clients, to be used in a guest.
var xenstoreClients = map[string]string{
	"/xs/xenstore-ls":         "/usr/bin/xenstore-ls",
	"/xs/xenstore-read":       "/usr/bin/xenstore-read",
	"/xs/xenstore-write":      "/usr/bin/xenstore-write",
	"/xs/libxenstore.so.4":    "/usr/lib/x86_64-linux-gnu/libxenstore.so.4",
	"/xs/libxentoolcore.so.1": "/usr/lib/x86_64-linux-gnu/libxentoolcore.so.1",
}

// Each node of our channels has the rights of the same node of a channel that xl
// made in the same guest, also in the eyes of the guest.
func TestRights(t *testing.T) {
	startDaemon(t).ready()
	g := xlguest.Start(t, xlguest.Config{
		Agent: true, Files: xenstoreClients,
		Extra: `channel = [ "connection=pty,name=lost", "connection=socket,path=/run/stock.sock,name=org.example.stock.0" ]`,
	})
	attach(t, g.Name(), "connection=socket,name=org.example.ours.0,mode=0660,owner=0,group=0,spool=65536,overflow=drop-oldest")
	attach(t, g.Name(), "connection=pty,name=org.example.tty.0")
	connected(t, g.Name(), "org.example.stock.0", "org.example.ours.0", "org.example.tty.0") // there will be no further nodes
	dom := g.DomID().String()
	seen := rights(xenstoreLS(t))
	for _, dir := range []string{"/local/domain/" + dom + "/device/console/", "/local/domain/0/backend/console/" + dom + "/", "/libxl/" + dom + "/device/console/"} {
		nodes := 0
		for path, got := range seen {
			for _, ours := range []string{"2", "3"} {
				if path != dir+ours && !strings.HasPrefix(path, dir+ours+"/") {
					continue
				}
				nodes++
				want, ok := seen[dir+"1"+strings.TrimPrefix(path, dir+ours)]
				if !ok { // a node of our own has the rights of those around it
					want = seen[dir+"1/protocol"]
				}
				if got != want {
					t.Errorf("%s has the rights %s, xl gives %s", path, got, want)
				}
			}
		}
		if nodes < 20 {
			t.Errorf("only %d nodes below %s", nodes, dir)
		}
	}

	inGuest := func(command string) string {
		return g.Run("export LD_LIBRARY_PATH=/xs; /xs/" + command)
	}
	for _, dir := range []string{"device/console", "/local/domain/0/backend/console/" + dom + "/2"} {
		view := rights(inGuest("xenstore-ls -fp " + dir))
		if len(view) < 10 {
			t.Errorf("the guest sees %d nodes below %s", len(view), dir)
		}
		for path, got := range view {
			if !strings.HasPrefix(path, "/") {
				path = "/local/domain/" + dom + "/" + path
			}
			if want := seen[path]; got != want {
				t.Errorf("the guest sees the rights of %s as %s, domain 0 as %s", path, got, want)
			}
		}
	}
	inGuest("xenstore-write device/console/2/new x")
	for _, refused := range []string{
		"xenstore-write device/console/2/name x", "xenstore-write device/console/2/tty x", "xenstore-write device/console/2/type x",
		"xenstore-write /local/domain/0/backend/console/" + dom + "/2/state 1", "xenstore-read /libxl/" + dom + "/device/console/2/name",
	} {
		if out := inGuest(refused + " && echo allowed || true"); strings.Contains(out, "allowed") {
			t.Errorf("the guest may %s: %s", refused, out)
		}
	}
	attachToFull(t, g)
}

// rights are the permissions that xenstore-ls -fp shows, by path.
func rights(listing string) map[string]string {
	all := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)^(\S+) = ".*"\s+\((.*)\)\s*$`).FindAllStringSubmatch(listing, -1) {
		all[m[1]] = m[2]
	}
	return all
}

// attachToFull attaches to a guest that has used up its quota of nodes: that is
// either done or refused, with nothing left.
func attachToFull(t *testing.T, g *xlguest.Guest) {
	t.Helper()
	g.Run(`export LD_LIBRARY_PATH=/xs; i=0; while [ $i -lt 40 ]; do
a=; j=0; while [ $j -lt 50 ]; do a="$a data/q/$i-$j x"; j=$((j+1)); done
/xs/xenstore-write $a 2>/dev/null || exit 0; i=$((i+1)); done; echo no quota; exit 1`)
	before := xenstoreLS(t)
	_, err := tryXenchan(t.Context(), "attach", g.Name(), "connection=pty,name=org.example.full.0")
	t.Logf("attach to a guest whose quota is used up: %v", err)
	if err != nil {
		if fmt.Sprint(exitStatus(err)) != "1" || strings.Contains(xenstoreLS(t), "org.example.full.0") {
			t.Errorf("%v\nbefore\n%s\nafter\n%s", err, before, xenstoreLS(t))
		}
		return
	}
	if _, err := exec.Command("xenstore-read", "/libxl/"+g.DomID().String()+"/device/console/4/name").Output(); err != nil {
		t.Error(err)
	}
}

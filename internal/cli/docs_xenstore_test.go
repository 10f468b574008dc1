package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenstore"
)

// docs/xenstore.md has each node that a channel has, with its rights, and no other.
func TestDocs_xenstoreNodes(t *testing.T) {
	requirePrograms(t)
	dir, err := os.MkdirTemp("/tmp", "xc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	host, cfg := filepath.Join(dir, "h"), filepath.Join(dir, "web.cfg")
	for path, content := range map[string]string{
		cfg: "name = \"web\"\n",
		filepath.Join(host, "channels.d", "b.toml"): "[[domain]]\nmatch = \"web\"\nchannels = [\"connection=pty,name=b\"]\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	cmd, err := startHost(host, os.Environ(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopHost(cmd, host, syscall.SIGTERM) })
	socket := filepath.Join(host, "xenstored.sock")
	attachEveryKind(t, socket, sim.RunDir(host))

	ls := exec.Command("xenstore-ls", "-fp")
	ls.Env = append(os.Environ(), "XENSTORED_PATH="+socket)
	out, err := ls.Output()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(repoPath("docs/xenstore.md"))
	if err != nil {
		t.Fatal(err)
	}
	want, got := documentedNodes(string(page)), listedNodes(string(out))
	if len(want) < 40 {
		t.Errorf("the page has only %d nodes", len(want))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/xenstore.md and the nodes of channels differ (-page +xenstore):\n%s", diff)
	}
}

// attachEveryKind attaches channels that have all nodes between them, and waits
// until guests have written theirs.
func attachEveryKind(t *testing.T, socket, runDir string) {
	t.Helper()
	ctx := t.Context()
	store, err := xenstore.Open(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	tools := &toolstack.Toolstack{Store: store, RunDir: runDir}
	d, err := tools.Resolve(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	all, err := channel.ParseSpec("connection=socket,name=a,mode=0600,owner=0,group=0,allow=0,spool=65536,overflow=block")
	if err != nil {
		t.Fatal(err)
	}
	a, err := tools.Attach(ctx, d, all)
	if err != nil {
		t.Fatal(err)
	}
	if err := tools.SetReady(ctx, d, "ok"); err != nil { // as config serve does
		t.Fatal(err)
	}
	b, err := tools.Find(ctx, d, "b") // the daemon makes it
	for end := time.Now().Add(20 * time.Second); errors.Is(err, toolstack.ErrNoChannel) && time.Now().Before(end); b, err = tools.Find(ctx, d, "b") {
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []toolstack.Channel{a, b} {
		if err := tools.WaitConnected(ctx, c); err != nil {
			t.Fatal(err)
		}
		// As the guest helper would; a new node has the rights of its directory.
		if err := store.Write(ctx, c.Frontend+"/"+channel.GuestNode, string(channel.GuestClosed)); err != nil {
			t.Fatal(err)
		}
	}
}

// documentedNodes are the rights of the nodes in the page's tables.
func documentedNodes(page string) map[string]string {
	nodes := make(map[string]string)
	heading := ""
	row := regexp.MustCompile("^\\| (?:`([^`]+)`|\\(the directory\\)) \\| `([^`]+)` \\|")
	for line := range strings.Lines(page) {
		if h, ok := strings.CutPrefix(line, "## "); ok {
			heading = strings.TrimSpace(h)
		}
		if m := row.FindStringSubmatch(line); m != nil {
			nodes[strings.TrimSuffix(heading+"/"+m[1], "/")] = m[2]
		}
	}
	return nodes
}

// listedNodes are the rights of the nodes of all channels, in the page's letters.
func listedNodes(ls string) map[string]string {
	nodes := make(map[string]string)
	line := regexp.MustCompile(`(?m)^(/libxl/1/device|/local/domain/0/backend|/local/domain/1/device)/console(/1)?/([1-9])(/.*?)? = ".*"   \((.*)\)$`)
	letters := strings.NewReplacer("/libxl/1", "/libxl/D", "domain/0", "domain/B", "domain/1", "domain/D")
	for _, m := range line.FindAllStringSubmatch(ls, -1) {
		dir := letters.Replace(m[1]) + "/console"
		rights := m[5]
		if !strings.HasPrefix(m[1], "/libxl") { // there 0 is the toolstack's domain
			rights = strings.NewReplacer("0", "B", "1", "D").Replace(rights)
		}
		if strings.Contains(m[1], "backend") {
			if m[2] == "" {
				continue // all of a domain's
			}
			dir += "/D"
		}
		nodes[dir+"/N"+m[4]] = rights
	}
	for _, m := range regexp.MustCompile(`(?m)^/libxl/1(/xenchan/\S+) = ".*"   \((.*)\)$`).FindAllStringSubmatch(ls, -1) {
		nodes["/libxl/D"+m[1]] = m[2]
	}
	return nodes
}

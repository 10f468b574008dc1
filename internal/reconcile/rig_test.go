package reconcile

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen/xensim"
	"github.com/xenchan/xenchan/xenstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is an embedded host with a directory of drop-in files.
type rig struct {
	*testing.T
	host  *xensim.Host
	store *xenstore.Store
	tools *toolstack.Toolstack
	drop  string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	host, err := xensim.Start(dir, xensim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	r := &rig{T: t, host: host, drop: filepath.Join(dir, "channels.d")}
	r.check(os.Mkdir(r.drop, 0o755))
	r.store = r.open()
	r.tools = &toolstack.Toolstack{Store: r.store, RunDir: filepath.Join(dir, "run")}
	return r
}

func (r *rig) open() *xenstore.Store {
	r.Helper()
	s, err := xenstore.Open(context.Background(), r.host.StorePath())
	r.check(err)
	r.Cleanup(func() { s.Close() })
	return s
}

func (r *rig) check(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// start runs a reconciler; stop ends it.
func (r *rig) start() (rec *Reconciler, stop func()) {
	r.Helper()
	store := r.open()
	rec = New(Config{Store: store, RunDir: r.tools.RunDir, Dir: r.drop})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- rec.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.Errorf("Run: %v", err)
		}
	})
	r.Cleanup(stop)
	return rec, stop
}

// file writes a drop-in file, as an editor does: whole.
func (r *rig) file(name, content string) {
	r.Helper()
	path := filepath.Join(r.drop, name)
	r.check(os.WriteFile(path+".new", []byte(content), 0o644))
	r.check(os.Rename(path+".new", path))
}

// declare is the text of a file with one rule.
func declare(match string, specs ...string) string {
	return fmt.Sprintf("[[domain]]\nmatch = %q\nchannels = [ \"%s\" ]\n", match, strings.Join(specs, "\", \""))
}

func (r *rig) create(name string) toolstack.Domain {
	r.Helper()
	d, err := r.host.CreateDomain(xensim.DomainConfig{Name: name})
	r.check(err)
	return toolstack.Domain{ID: d.ID, Name: d.Name, UUID: d.UUID}
}

func (r *rig) rename(d toolstack.Domain, name string) {
	r.Helper()
	r.check(r.store.Write(r.Context(), "/local/domain/"+d.ID.String()+"/name", name))
}

// channels are the names of a domain's channels, each with its origin.
func (r *rig) channels(d toolstack.Domain) string {
	r.Helper()
	all, err := r.tools.Channels(r.Context(), d)
	r.check(err)
	var names []string
	for _, c := range all {
		names = append(names, c.Name+":"+string(c.Origin))
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// has waits until a domain has exactly these channels.
func (r *rig) has(d toolstack.Domain, want string) {
	r.Helper()
	r.eventually(func() (bool, string) {
		got := r.channels(d)
		return got == want, fmt.Sprintf("%v has %q, want %q", d, got, want)
	})
}

func (r *rig) eventually(f func() (ok bool, state string)) {
	r.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		ok, state := f()
		if ok {
			return
		}
		if time.Now().After(end) {
			r.Fatal(state)
		}
	}
}

// apply applies the files and returns the rows as "DOMAIN/NAME ACTION".
func (r *rig) apply(rec *Reconciler) []string {
	r.Helper()
	report, err := rec.Apply(r.Context(), false)
	r.check(err)
	if len(report.Mistakes) > 0 {
		r.Errorf("mistakes: %v", report.Mistakes)
	}
	return words(report.Channels)
}

func words(rows []Row) []string {
	var all []string
	for _, row := range rows {
		all = append(all, fmt.Sprintf("%s/%s %s", row.Domain, row.Name, row.Action))
	}
	return all
}

func (r *rig) row(rec *Reconciler, name string) Row {
	for _, row := range rec.Report().Channels {
		if row.Name == name {
			return row
		}
	}
	return Row{}
}

// backends are the backend directories that are there.
func (r *rig) backends() []string {
	r.Helper()
	v := xenstore.NewValues(r.Context(), r.store)
	var all []string
	for _, dom := range v.List("/local/domain/0/backend/console") {
		for _, dev := range v.List("/local/domain/0/backend/console/" + dom) {
			all = append(all, dom+"/"+dev)
		}
	}
	r.check(v.Err())
	return all
}

var socket = channel.Spec{Connection: channel.Socket}

package daemon_test

import (
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/xen/xensim"
)

// held is what this process and the embedded host have in use.
type held struct {
	Files, Goroutines int
	Domains           []xensim.DomainInfo // with their ports, grants and mappings
	Nodes             []string
}

func (r *rig) held() held {
	r.t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	r.check(err)
	return held{len(files), runtime.NumGoroutine(), r.host.Domains(), r.dump()}
}

// heldAgain waits until no more is in use than before.
func (r *rig) heldAgain(before held) {
	r.t.Helper()
	var now held
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		now = r.held()
		if now.Files <= before.Files && now.Goroutines <= before.Goroutines &&
			slices.Equal(now.Domains, before.Domains) && slices.Equal(now.Nodes, before.Nodes) {
			return
		}
	}
	r.t.Errorf("in use (-before +after):\n%s", cmp.Diff(before, now))
}

//go:build xen

package realstore

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/storetest"
)

// Roles in which this test binary runs itself.
const (
	roleVariable = "XENCHAN_REALSTORE"
	roleSuite    = "suite" // in dom0: the suite itself
	roleRelay    = "relay" // in a guest
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == roleRelay {
		fmt.Fprintln(os.Stderr, relay())
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// differences are the subtests that a real daemon fails, with the reason. The
// suite states what the embedded store does, which is C xenstored's behaviour.
var differences = map[storetest.Flavour]map[string]string{
	storetest.C: {
		// The guest's kernel stands between its programs and xenstored.
		"guest/relative_paths_are_below_its_own":          "the kernel gives each watch a token of its own",
		"guest-c/privilege_is_checked_before_the_payload": "the kernel answers for transactions that it does not know",
		"guest-c/quota_of_watches":                        "the kernel has watches too, and refuses in write",
		"guest-c/quota_of_nodes":                          "a domain made by libxl owns nodes already",
	},
	storetest.OCaml: {
		"guest/relative_paths_are_below_its_own":  "the kernel gives each watch a token of its own",
		"guest/new_nodes_belong_to_their_maker":   "they belong to the owner of the directory",
		"guest/permissions_are_the_owner's":       "giving a node away is EACCES, not EPERM",
		"guest/privileged_requests":               "CONTROL is answered OK",
		"guest/transactions":                      "a transaction that is not there is EIO",
		"guest/whether_a_node_exists_is_not_told": "it is: ENOENT, and RM is OK",
		"release/nodes_of_the_dead_go":            "they go without an event",
	},
}

// TestDifferences runs the suite against this dom0's daemon in a process of its
// own, and wants exactly the known subtests to fail.
func TestDifferences(t *testing.T) {
	flavour := findFlavour(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*xlguest.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestSuite$", "-test.v")
	cmd.Env = append(os.Environ(), roleVariable+"="+roleSuite)
	cmd.WaitDelay = time.Second
	out, _ := cmd.CombinedOutput() // what failed is in the output
	if !strings.Contains(string(out), "=== RUN   TestSuite/nodes/rm\n") {
		t.Fatalf("the suite did not run:\n%s", out)
	}
	failed := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^ {8}--- FAIL: TestSuite/(\S+) `).FindAllStringSubmatch(string(out), -1) {
		failed[m[1]] = true
	}
	known := differences[flavour]
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		if known[name] == "" {
			t.Errorf("not as the suite says: %s", name)
		}
	}
	for name, reason := range known {
		if !failed[name] {
			t.Errorf("passed, contrary to the list: %s (%s)", name, reason)
		}
	}
	if passed := strings.Count(string(out), "        --- PASS: TestSuite/"); passed < 30 {
		t.Errorf("only %d subtests passed", passed)
	}
	if t.Failed() {
		t.Logf("the suite's output:\n%s", out)
	}
}

// TestSuite is the suite itself; it runs only for TestDifferences.
func TestSuite(t *testing.T) {
	if os.Getenv(roleVariable) != roleSuite {
		return
	}
	pool := newGuests(t)
	storetest.Run(t, storetest.Harness{
		Flavour: findFlavour(t), Open: openSocket, Guest: pool.take, Release: pool.end,
	})
}

func openSocket(t *testing.T) io.ReadWriteCloser {
	t.Helper()
	stream, device, err := xenstore.OpenStream(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	if device {
		t.Fatal("no socket of xenstored")
	}
	return stream
}

// findFlavour finds out which daemon this dom0 was booted with.
func findFlavour(t *testing.T) storetest.Flavour {
	t.Helper()
	programs, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		switch comm, _ := os.ReadFile(p); string(comm) { // a process may end meanwhile
		case "xenstored\n":
			return storetest.C
		case "oxenstored\n":
			return storetest.OCaml
		}
	}
	t.Fatal("no xenstored runs in this dom0")
	return 0
}

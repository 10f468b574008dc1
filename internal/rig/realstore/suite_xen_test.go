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
		"nodes/rm":                                         "RM of / is OK",
		"nodes/largest_value":                              "values above 2,048 bytes are E2BIG, for domain 0 too",
		"paths/bad_ones":                                   "@… are ordinary names",
		"messages/malformed_payloads":                      "a request without payload waits for the next byte",
		"transactions/reset_ends_them":                     "a transaction that is not there is EIO",
		"transactions/conflicts":                           "a transaction that is not there is EIO; nor is EAGAIN given for mere reads",
		"transactions/ids":                                 "a transaction that is not there is EIO",
		"watches/transaction_ids_are_ignored":              "the reply to WATCH has tx_id 0",
		"watches/many_unread_events_do_not_hold_up_others": "whoever makes 2,100 events that nobody reads is not served again",
		"watches/removal_above_gives_the_watched_path":     "watches of absent nodes below fire too",
		"ocaml/rm_below_what_does_not_exist":               "ENOENT where the parent is absent",
	},
}

// TestDifferences runs the suite against this dom0's daemon in a process of its
// own, and wants exactly the known subtests to fail.
func TestDifferences(t *testing.T) {
	flavour := findFlavour(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
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
	h := storetest.Harness{Flavour: findFlavour(t), Open: openSocket}
	if h.Flavour == storetest.C {
		pool := newGuests(t)
		h.Guest, h.Release = pool.take, pool.end
	}
	storetest.Run(t, h)
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

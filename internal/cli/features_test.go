package cli

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// A word for a feature is a promise to scripts: one that was there once stays, and
// means what is there. A new command, flag, key or kind of event needs its word in
// testdata/features.txt, which XENCHAN_UPDATE_FEATURES=1 adds.
func TestFeatures_arePromises(t *testing.T) {
	const file = "testdata/features.txt"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	promised := strings.Fields(string(text))
	there := features((&app{}).root())
	if os.Getenv("XENCHAN_UPDATE_FEATURES") != "" {
		promised = slices.Compact(slices.Sorted(slices.Values(slices.Concat(promised, there))))
		if err := os.WriteFile(file, []byte(strings.Join(promised, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, word := range promised {
		if !slices.Contains(there, word) {
			t.Errorf("%s was promised and is gone", word)
		}
	}
	for _, word := range there {
		if !slices.Contains(promised, word) {
			t.Errorf("%s is new: run this test with XENCHAN_UPDATE_FEATURES=1, and it is promised", word)
		}
	}
	for _, word := range []string{"flag-attach-wait", "flag-host", "spec-mode", "list-origin", "event-loss"} {
		if !slices.Contains(there, word) {
			t.Errorf("%s is not there", word)
		}
	}
	for _, c := range visible(t)[1:] { // the first is xenchan itself
		word := "command" + strings.ReplaceAll(strings.TrimPrefix(c.CommandPath(), "xenchan"), " ", "-")
		if c.Name() != "help" && !slices.Contains(there, word) {
			t.Errorf("%s has no word %s", c.CommandPath(), word)
		}
	}
}

package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// citation is how SECURITY.md names a test: `package/Test`, and the script of one.
var citation = regexp.MustCompile("`([a-z0-9/]+)/((?:Test|Fuzz)[A-Z0-9]\\w*)(?:/(\\w+))?`")

// Every claim of SECURITY.md names a test, and every test that it names exists.
func TestSecurity_claimsAreTested(t *testing.T) {
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := citation.FindAllStringSubmatch(string(text), -1)
	if len(named) < 50 {
		t.Errorf("only %d tests are named", len(named))
	}
	for _, c := range named {
		files, err := filepath.Glob(filepath.Join(root, c[1], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, f := range files {
			src, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			found = found || strings.Contains(string(src), "\nfunc "+c[2]+"(")
		}
		if !found {
			t.Errorf("SECURITY.md names %s/%s, which does not exist", c[1], c[2])
		}
		if c[3] != "" {
			if _, err := os.Stat(filepath.Join(root, c[1], "testdata/script", c[3]+".txtar")); err != nil {
				t.Error(err)
			}
		}
	}
	for _, claim := range claims(string(text)) {
		if !citation.MatchString(claim) {
			t.Errorf("SECURITY.md claims without a test: %s", claim)
		}
	}
}

// claims are the items of lists, and the rows of the last table.
func claims(text string) []string {
	var all []string
	text, table, _ := strings.Cut(text, "## Rules that past advisories teach")
	for block := range strings.SplitSeq(text, "\n\n") {
		all = append(all, strings.Split("\n"+block, "\n- ")[1:]...)
	}
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "| XSA") {
			all = append(all, line)
		}
	}
	return all
}

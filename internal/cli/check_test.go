package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/channel/xlcfg/xlcfgtest"
)

// What check prints of each file is what xl makes of it, and with --strict what is
// accepted is the same and without a warning.
func TestCheck_agreesWithXL(t *testing.T) {
	for _, c := range xlcfgtest.Cases(t) {
		status, stdout, warnings := runCheck(t, c.Source)
		got := xlcfgtest.Verdict{Outcome: xlcfgtest.Refused}
		if status == exitDone {
			got.Outcome = xlcfgtest.Accepted
			if err := json.Unmarshal([]byte(stdout), &got.Channels); err != nil {
				t.Errorf("%s: %v in %s", c.Name, err, stdout)
			}
		} else if status != exitUsage || stdout != "" {
			t.Errorf("%s: status %d, %s", c.Name, status, stdout)
		}
		c.Judge(t, got)

		strict, strictOut, strictErr := runCheck(t, c.Source, "--strict")
		surprises := strings.Contains(warnings, "xenchan: warning: ")
		switch {
		case strict == exitDone && (surprises || status != exitDone || strictOut != stdout):
			t.Errorf("%s: --strict accepts it: %s%s", c.Name, strictOut, warnings)
		case strict != exitDone && (status == exitDone && !surprises || strict != exitUsage || strictOut != ""):
			t.Errorf("%s: --strict refuses it with status %d: %s%s", c.Name, strict, strictOut, strictErr)
		}
	}
}

func runCheck(t *testing.T, src []byte, flags ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	args := append([]string{"check", "-o", "json", "-"}, flags...)
	status = Main(t.Context(), args, bytes.NewReader(src), &out, &errs)
	return status, out.String(), errs.String()
}

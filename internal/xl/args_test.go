package xl

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseArgs(t *testing.T) {
	for in, want := range map[string]Args{
		"":                               {},
		"memory=1 -q -e name=x":          {Options: []string{"-q", "-e"}, Assignments: []string{"memory=1", "name=x"}},
		"-pc":                            {Paused: true, Console: true},
		"-qpVc -d":                       {Options: []string{"-qV", "-d"}, Paused: true, Console: true},
		"--quiet --vncviewer-autopass":   {Options: []string{"--quiet", "--vncviewer-autopass"}},
		"--ignore-global-affinity-masks": {Options: []string{"--ignore-global-affinity-masks"}},
	} {
		got, err := ParseArgs(strings.Fields(in))
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: %v\n%s", in, err, cmp.Diff(want, got))
		}
	}
	for in, says := range map[string]string{
		"-n":               "makes no domain",
		"-qn":              "makes no domain",
		"--dryrun":         "makes no domain",
		"-F":               "would not return",
		"-f x.cfg":         "before the --",
		"--defconfig=a":    "before the --",
		"--help":           "see `xl create -h`",
		"other.cfg":        `"other.cfg" is neither`,
		"-":                `"-" is neither`,
		"memory=1 swap -q": `"swap" is neither`,
	} {
		if got, err := ParseArgs(strings.Fields(in)); err == nil || !strings.Contains(err.Error(), says) || !cmp.Equal(got, Args{}) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

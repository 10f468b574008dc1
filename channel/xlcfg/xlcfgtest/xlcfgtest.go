// Package xlcfgtest is what stock xl makes of hundreds of configurations, and where
// xenchan knowingly differs. The texts and xl's verdicts are in testdata; that the
// verdicts are still xl's own is a test of this package on real Xen.
package xlcfgtest

import (
	"crypto/sha256"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

//go:embed testdata
var testdata embed.FS

// head makes xl want no more of the short cases than their own text.
const head = "name = \"x\"\nkernel = \"k\"\n"

// Channel is what xl prints of a channel. Path is only a socket's.
type Channel struct {
	Name       string `json:"name"`
	Connection string `json:"connection"`
	Path       string `json:"path,omitempty"`
	Backend    string `json:"backend,omitempty"`
}

// Verdict is what xl, or xenchan, makes of a file: channels if it takes it.
type Verdict struct {
	Outcome  string // Accepted, Refused or Crashed
	Channels []Channel
}

// The outcomes.
const (
	Accepted = "accepted"
	Refused  = "refused"
	Crashed  = "crashed"
)

// String is the form of a verdict in the record.
func (v Verdict) String() string {
	if v.Outcome != Accepted {
		return v.Outcome
	}
	b, err := json.Marshal(append([]Channel{}, v.Channels...))
	if err != nil {
		panic(err)
	}
	return v.Outcome + " " + string(b)
}

// equal says whether two verdicts are the same.
func (v Verdict) equal(w Verdict) bool {
	return v.Outcome == w.Outcome && slices.Equal(v.Channels, w.Channels)
}

// Case is a configuration and what xl makes of it.
type Case struct {
	Name   string
	Source []byte
	// XL is the recorded verdict of xl.
	XL Verdict
	// Differs is why xenchan's verdict is another one; else empty.
	Differs string
}

// Judge fails t when xenchan's verdict is not xl's, or is and is said not to be.
func (c Case) Judge(t testing.TB, xenchan Verdict) {
	t.Helper()
	switch same := xenchan.equal(c.XL); {
	case !same && c.Differs == "":
		t.Errorf("%s:\n%s\nxl:      %v\nxenchan: %v", c.Name, quoted(c.Source), c.XL, xenchan)
	case same && c.Differs != "":
		t.Errorf("%s is listed as different (%s), and is the same: %v", c.Name, c.Differs, c.XL)
	}
}

func quoted(src []byte) string { return strings.ReplaceAll(strconv.Quote(string(src)), `\n`, "\\n\n ") }

// Cases are all cases, in the order of their names' files.
func Cases(t testing.TB) []Case {
	t.Helper()
	cases, err := load()
	if err != nil {
		t.Fatal(err)
	}
	verdicts, differs := record(t), differences(t)
	for i := range cases {
		c := &cases[i]
		line, ok := verdicts[c.Name]
		if !ok || line.hash != hash(c.Source) {
			t.Errorf("%s is new or has changed: let xl judge it, see verdicts.txt", c.Name)
		}
		c.XL, c.Differs = line.verdict, differs[c.Name]
		delete(verdicts, c.Name)
		delete(differs, c.Name)
	}
	for name := range verdicts {
		t.Errorf("verdicts.txt has a verdict on %s, which is not there", name)
	}
	for name := range differs {
		t.Errorf("differences.txt has %s, which is not there", name)
	}
	return cases
}

// load reads the texts.
func load() (cases []Case, err error) {
	for _, file := range []string{"tokens", "strings", "lists", "append", "channel", "generated"} {
		err := eachLine(file+".txt", func(line string) error {
			name, text, _ := strings.Cut(line, " ")
			src, err := strconv.Unquote(strings.TrimSpace(text))
			cases = append(cases, Case{Name: file + "/" + name, Source: []byte(head + src)})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	whole, err := fs.Glob(testdata, "testdata/whole/*.cfg")
	for _, name := range whole {
		src, err := testdata.ReadFile(name)
		if err != nil {
			return nil, err
		}
		cases = append(cases, Case{Name: "whole/" + strings.TrimSuffix(path.Base(name), ".cfg"), Source: src})
	}
	return cases, err
}

// eachLine calls do with the lines of a file of testdata that are neither empty
// nor a comment.
func eachLine(name string, do func(line string) error) error {
	src, err := testdata.ReadFile("testdata/" + name)
	if err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(string(src)) {
		n++
		line = strings.TrimRight(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		if err := do(line); err != nil {
			return fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	return nil
}

func hash(src []byte) string { return fmt.Sprintf("%.4x", sha256.Sum256(src)) }

type recorded struct {
	hash    string
	verdict Verdict
}

// record is what verdicts.txt says, by the name of the case.
func record(t testing.TB) map[string]recorded {
	t.Helper()
	all := map[string]recorded{}
	err := eachLine("verdicts.txt", func(line string) error {
		f := strings.SplitN(line, " ", 4)
		if len(f) < 3 {
			return fmt.Errorf("too few words")
		}
		r := recorded{hash: f[1], verdict: Verdict{Outcome: f[2]}}
		all[f[0]] = r
		if len(f) == 4 {
			if err := json.Unmarshal([]byte(f[3]), &r.verdict.Channels); err != nil {
				return err
			}
			all[f[0]] = r
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// differences is why, by the name of the case: a line with a reason, and below it
// the cases, indented.
func differences(t testing.TB) map[string]string {
	t.Helper()
	all, reason := map[string]string{}, ""
	err := eachLine("differences.txt", func(line string) error {
		name, indented := strings.CutPrefix(line, "\t")
		switch {
		case !indented:
			reason = line
		case reason == "" || all[name] != "":
			return fmt.Errorf("%s has no reason, or two", name)
		default:
			all[name] = reason
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

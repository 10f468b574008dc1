//go:build xen

package xlcfgtest

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var (
	recordFlag = flag.Bool("record", false, "print verdicts.txt instead of checking it")
	fresh      = flag.Int("fresh", 0, "judge so many new configurations and damaged cases instead")
	seed       = flag.Uint64("seed", 2, "of the new ones")
)

// askXL is the verdict of xl create --dryrun.
func askXL(t *testing.T, src []byte) Verdict {
	t.Helper()
	file := filepath.Join(t.TempDir(), "f.cfg")
	if err := os.WriteFile(file, src, 0o666); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file)
	cmd := exec.Command("xl", "create", "-n", file)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if !exit.Exited() {
			return Verdict{Outcome: Crashed}
		}
		return Verdict{Outcome: Refused}
	}
	if err != nil {
		t.Fatal(err)
	}
	v, err := readXL(out)
	if err != nil {
		t.Fatalf("%v in %s\n%s\nof %q", err, out, stderr.String(), src)
	}
	return v
}

// readXL reads the JSON that xl prints of a domain, libxl's own.
func readXL(out []byte) (Verdict, error) {
	var domain struct {
		Channels []struct {
			Name    string    `json:"name"`
			Backend string    `json:"backend_domname"`
			PTY     *struct{} `json:"connection.pty"`
			Socket  *struct {
				Path string `json:"path"`
			} `json:"connection.socket"`
		} `json:"channels"`
	}
	if err := json.Unmarshal(out, &domain); err != nil {
		return Verdict{}, err
	}
	v := Verdict{Outcome: Accepted}
	for _, c := range domain.Channels {
		ch := Channel{Name: c.Name, Backend: c.Backend}
		switch {
		case c.PTY != nil:
			ch.Connection = "pty"
		case c.Socket != nil:
			ch.Connection, ch.Path = "socket", c.Socket.Path
		}
		v.Channels = append(v.Channels, ch)
	}
	return v, nil
}

// judge is the line of verdicts.txt that says which xl it was: hashes of the program
// and of the library with its parser.
func judge(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("xl")
	if err != nil {
		t.Fatal(err)
	}
	line := "# Judged by"
	for _, pattern := range []string{program, "/usr/lib/*/libxlutil.so.*"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s, %v", pattern, err)
		}
		data, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		line += " " + filepath.Base(pattern) + " " + hash(data)
	}
	return line + ".\n"
}

// newRecord is the content of verdicts.txt for these verdicts of xl.
func newRecord(judge string, cases []Case) string {
	var b strings.Builder
	b.WriteString("# What xl of Xen 4.17 makes of each case: its name, a hash of its text, the verdict.\n" +
		"# Made by a test on real Xen: go test -tags xen -run TestXL -v -args -record\n" + judge + "\n")
	for _, c := range cases {
		fmt.Fprintf(&b, "%s %s %v\n", c.Name, hash(c.Source), c.XL)
	}
	return b.String()
}

// TestXL has xl judge the cases. The record is what it said, so that everybody
// without Xen can compare with it; here xl itself is compared with both: on all cases
// when it is another xl than that of the record, else on some, as a process for each
// takes long under emulation.
func TestXL(t *testing.T) {
	if *fresh > 0 {
		known := Cases(t)
		g := generator{rand.New(rand.NewPCG(*seed, 1))}
		for i, text := range generate(*seed, *fresh) {
			src := head + text
			if i%2 == 1 {
				src = g.damage(g.damage(string(known[g.IntN(len(known))].Source)))
			}
			c := Case{Name: fmt.Sprint("fresh/", i), Source: []byte(src)}
			c.XL = askXL(t, c.Source)
			c.Judge(t, stock(c.Source))
		}
		return
	}
	if *recordFlag {
		cases, err := load()
		if err != nil {
			t.Fatal(err)
		}
		for i := range cases {
			cases[i].XL = askXL(t, cases[i].Source)
		}
		for line := range strings.Lines(newRecord(judge(t), cases)) {
			fmt.Print("record: ", line)
		}
		return
	}
	every := 1
	if src, err := testdata.ReadFile("testdata/verdicts.txt"); err != nil {
		t.Fatal(err)
	} else if strings.Contains(string(src), judge(t)) {
		every = 8
	}
	t.Logf("xl judges every case of %d", every)
	for i, c := range Cases(t) {
		if i%every != 0 {
			continue
		}
		xl := askXL(t, c.Source)
		if !xl.equal(c.XL) {
			t.Errorf("%s:\n%s\nxl:     %v\nrecord: %v", c.Name, quoted(c.Source), xl, c.XL)
		}
		c.XL = xl
		c.Judge(t, stock(c.Source))
	}
}

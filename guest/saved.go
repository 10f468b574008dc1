package guest

import (
	"fmt"
	"os"
	"strings"
)

// saved is what a holder leaves for the next one.
type saved struct {
	domid string // the domain's number, by which a restore is noticed
	of    map[key]int
}

// load reads a file that save has written. Another one is like none: then the
// order in which the consoles came has to do.
func load(path string) saved {
	text, _ := os.ReadFile(path)
	s, _ := parseSaved(string(text))
	return s
}

func parseSaved(text string) (s saved, err error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	s = saved{domid: lines[0], of: make(map[key]int)}
	for _, line := range lines[1:] {
		var k key
		var n int
		if _, err := fmt.Sscanf(line, "%s %d %d", &k.id, &k.bind, &n); err != nil {
			return saved{}, err
		}
		if n < 0 || n >= ttys {
			return saved{}, fmt.Errorf("no terminal has the number %d", n)
		}
		s.of[k] = n
	}
	return s, nil
}

func (s saved) String() string {
	var b strings.Builder
	fmt.Fprintln(&b, s.domid)
	for k, n := range s.of {
		fmt.Fprintln(&b, k.id, k.bind, n)
	}
	return b.String()
}

func (s saved) save(path string) error {
	if err := os.WriteFile(path+".new", []byte(s.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

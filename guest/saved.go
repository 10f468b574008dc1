package guest

import (
	"fmt"
	"os"
	"strings"
)

// saved is what a holder leaves for the next one.
type saved struct {
	owners map[irq]key // of interrupts, for as long as these are there
	seen   map[int]irq // the interrupts of terminals
}

// load reads a file that save has written. Another one is like none: then terminals
// that a program has open get no link before it closes them.
func load(path string) saved {
	text, _ := os.ReadFile(path)
	s, err := parseSaved(string(text))
	if err != nil {
		s, _ = parseSaved("")
	}
	return s
}

func parseSaved(text string) (s saved, err error) {
	s = saved{owners: make(map[irq]key), seen: make(map[int]irq)}
	for line := range strings.Lines(text) {
		var k key
		var i irq
		var n int
		if _, err := fmt.Sscanf(line, "terminal %d %d %d\n", &n, &i.number, &i.ino); err == nil {
			if n < 0 || n >= ttys {
				return saved{}, fmt.Errorf("no terminal has the number %d", n)
			}
			s.seen[n] = i
			continue
		}
		if _, err := fmt.Sscanf(line, "%s %d %d %d\n", &k.id, &k.bind, &i.number, &i.ino); err != nil {
			return saved{}, err
		}
		s.owners[i] = k
	}
	return s, nil
}

func (s saved) String() string {
	var b strings.Builder
	for n, i := range s.seen {
		fmt.Fprintln(&b, "terminal", n, i.number, i.ino)
	}
	for i, k := range s.owners {
		fmt.Fprintln(&b, k.id, k.bind, i.number, i.ino)
	}
	return b.String()
}

func (s saved) save(path string) error {
	if err := os.WriteFile(path+".new", []byte(s.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

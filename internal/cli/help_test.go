package cli

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
)

// visible walks the commands that help shows, and help itself.
func visible(t *testing.T) []*cobra.Command {
	t.Helper()
	root := (&app{}).root()
	root.InitDefaultHelpCmd()
	var all []*cobra.Command
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden {
			return
		}
		all = append(all, c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	if len(all) < 12 {
		t.Fatalf("only %d commands are visible", len(all))
	}
	return all
}

func TestCommands_areDocumented(t *testing.T) {
	for _, c := range visible(t) {
		name := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || len(c.Short) > 70 {
			t.Errorf("%s: Short %q must be a few words without a full stop", name, c.Short)
		}
		if !strings.HasSuffix(c.Long, ".") && !strings.HasSuffix(c.Long, ")") {
			t.Errorf("%s: Long must be sentences", name)
		}
		if c.Args == nil {
			t.Errorf("%s does not check its arguments", name)
		}
		if c.Example == "" {
			t.Errorf("%s has no example", name)
		}
		var help bytes.Buffer
		c.SetOut(&help)
		if err := c.Help(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for line := range strings.Lines(help.String()) {
			if len(strings.TrimRight(line, "\n")) > 100 {
				t.Errorf("%s: help has a line of %d bytes: %s", name, len(line), line)
			}
		}
		for _, part := range []string{c.Long, c.Example, "Usage:\n  xenchan", "--host HOST", "-o, --output FORM"} {
			if !strings.Contains(help.String(), part) {
				t.Errorf("help of %s is without %q", name, part)
			}
		}
	}
}

// Each line of an example that runs xenchan must be one that xenchan accepts.
func TestCommands_examplesParse(t *testing.T) {
	for _, c := range visible(t) {
		mine := 0
		for line := range strings.Lines(c.Example) {
			words := exampleWords(line)
			if words == nil {
				continue
			}
			mine++
			root := (&app{}).root()
			root.InitDefaultHelpCmd()
			target, rest, err := root.Find(words)
			if err != nil {
				t.Errorf("%q: %v", line, err)
				continue
			}
			if c.HasParent() && target.Name() == c.Name() || !c.HasParent() {
				target.InitDefaultHelpFlag()
				if err := target.ParseFlags(rest); err != nil {
					t.Errorf("%q: %v", line, err)
				} else if err := target.ValidateArgs(target.Flags().Args()); err != nil {
					t.Errorf("%q: %v", line, err)
				}
				checkExampleSpec(t, target, line)
			}
		}
		if mine == 0 {
			t.Errorf("%s: no line of the example runs it", c.CommandPath())
		}
	}
}

func checkExampleSpec(t *testing.T, c *cobra.Command, line string) {
	t.Helper()
	if c.Name() != "attach" {
		return
	}
	if _, err := channel.ParseSpec(c.Flags().Arg(1)); err != nil {
		t.Errorf("%q: %v", line, err)
	}
}

// exampleWords is what xenchan gets of a line of shell without quotes; a comment
// stands behind two spaces or more.
func exampleWords(line string) []string {
	_, rest, ok := strings.Cut(line, "xenchan ")
	if !ok {
		return nil
	}
	rest, _, _ = strings.Cut(strings.TrimSpace(rest), "  ")
	var words []string
	for _, w := range strings.Fields(rest) {
		if strings.ContainsAny(w, "<>|&") {
			break
		}
		words = append(words, strings.TrimSuffix(w, ")"))
	}
	return words
}

// Hidden commands are for xenchan itself, and nothing mentions them.
func TestHelp_hidesWhatIsInternal(t *testing.T) {
	var out bytes.Buffer
	if status := Main(context.Background(), []string{"--help"}, os.Stdin, &out, &out); status != 0 {
		t.Fatalf("status %d", status)
	}
	if strings.Contains(out.String(), "sim-") {
		t.Errorf("help shows internal commands:\n%s", &out)
	}
}

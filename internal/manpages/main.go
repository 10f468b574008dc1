// Command manpages writes a manual page for each command into a directory. It is a
// program of its own, so that xenchan does not carry what formats them.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra/doc"

	"github.com/xenchan/xenchan/internal/cli"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "manpages:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: manpages DIR")
	}
	if err := os.MkdirAll(args[0], 0o755); err != nil {
		return err
	}
	root := cli.Commands()
	root.DisableAutoGenTag = true // pages of the same commands are the same
	return doc.GenManTree(root, &doc.GenManHeader{Title: "XENCHAN", Section: "1", Source: "xenchan", Manual: "xenchan"}, args[0])
}

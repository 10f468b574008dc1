// Command xenchan serves and manages the channels of a Xen host.
package main

import (
	"context"
	"os"

	"github.com/xenchan/xenchan/internal/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

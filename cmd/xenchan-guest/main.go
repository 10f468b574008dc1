// Command xenchan-guest finds, awaits and opens channels inside a guest.
package main

import (
	"context"
	"os"

	"github.com/xenchan/xenchan/internal/guestcli"
)

func main() {
	os.Exit(guestcli.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

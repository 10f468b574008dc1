// Command xenchan serves and manages the channels of a Xen host.
package main

import (
	"context"
	"os"

	"github.com/xenchan/xenchan/internal/cli"
)

func main() {
	run := cli.Main
	if cli.IsDeviceModel(os.Args[0]) {
		run = cli.DeviceModel
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Command xenchan-dm is what libxl starts in the place of a QEMU. It hands the consoles
// of a domain over to the daemon, and is small, as each new domain waits for its start;
// where that is not enough it becomes xenchan.
package main

import (
	"os"

	"github.com/xenchan/xenchan/internal/standin"
)

func main() { os.Exit(standin.Here().Main(os.Args)) }

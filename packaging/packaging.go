// Package packaging holds what is installed beside the programs, and tests that judge
// it by systemd's own tools.
package packaging

import "embed"

// Guest is what `make install-guest` installs, for PREFIX=/usr.
//
//go:embed xenchan-guest.rules xenchan-guest.service xenchan-qemu-ga.service
var Guest embed.FS

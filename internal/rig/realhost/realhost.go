// Package realhost holds no code but tests of the whole product on real Xen:
// the daemon and the commands in dom0, beside xl, with stock Linux guests. They
// run in the rig, see package rig.
package realhost

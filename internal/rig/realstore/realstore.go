// Package realstore has no code: its tests hold Xen's own xenstored daemons
// against storetest, in the rig's dom0 (go test -tags xen).
package realstore

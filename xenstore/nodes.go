package xenstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"syscall"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// nodes is what Store and Tx have in common.
type nodes struct {
	c  *conn
	tx *txState // nil outside of a transaction
	// before, unless nil, is called before a request about a node and can
	// make it fail: this is how WaitUntil learns what is read. What it returns
	// is called once the request has been sent, and can make that fail too.
	before func(path string) (after func(ctx context.Context) error, err error)
}

// call checks a request that has no path, or a checked one, and sends it.
func (n nodes) call(ctx context.Context, op wire.Type, path string, payload []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, opError(op, path, err)
	}
	r, err := n.submit(op, path, payload)
	if err != nil {
		return nil, err
	}
	return n.c.await(ctx, r, path)
}

// submit is the first half of call.
func (n nodes) submit(op wire.Type, path string, payload []byte) (*request, error) {
	limit := wire.MaxPayload
	if n.c.device {
		limit = maxDevicePayload
	}
	if len(payload) > limit {
		return nil, &Error{
			Op: op, Path: path, Errno: syscall.E2BIG,
			Detail: fmt.Sprintf("the request has %d bytes, the limit is %d", len(payload), limit),
		}
	}
	var id uint32
	if n.tx != nil {
		if n.tx.over.Load() {
			return nil, opError(op, path, errTxOver)
		}
		id = n.tx.id
	}
	r, err := n.c.submit(op, id, payload)
	if err != nil {
		return nil, opError(op, path, err)
	}
	return r, nil
}

// onNode sends a request about one node: the path, then more strings.
func (n nodes) onNode(ctx context.Context, op wire.Type, path string, more ...string) ([]byte, error) {
	return n.begin(ctx, op, path, more...)(ctx)
}

// begin is the first half of onNode: it sends the request and does not wait. The
// daemon answers in the order of the requests, so a watch that is sent before a
// read is there when that is done.
func (n nodes) begin(ctx context.Context, op wire.Type, path string, more ...string) (end func(context.Context) ([]byte, error)) {
	failed := func(err error) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return nil, err }
	}
	if err := ctx.Err(); err != nil {
		return failed(opError(op, path, err))
	}
	watched := func(context.Context) error { return nil }
	if n.before != nil {
		var err error
		if watched, err = n.before(path); err != nil {
			return failed(err)
		}
	}
	special := op == wire.GetPerms || op == wire.SetPerms
	if err := checkPath(path, special); err != nil {
		return failed(&Error{Op: op, Path: path, Errno: syscall.EINVAL, Detail: err.Error()})
	}
	r, err := n.submit(op, path, append(wire.JoinNUL(path), wire.JoinNUL(more...)...))
	return func(ctx context.Context) ([]byte, error) {
		if err := watched(ctx); err != nil {
			return nil, err
		}
		if err != nil {
			return nil, err
		}
		return n.c.await(ctx, r, path)
	}
}

// readAll reads many nodes in about the time of one. The results are in the order
// of the paths.
func (n nodes) readAll(ctx context.Context, paths []string) []read {
	ends := make([]func(context.Context) ([]byte, error), len(paths))
	for i, path := range paths {
		ends[i] = n.begin(ctx, wire.Read, path)
	}
	all := make([]read, len(paths))
	for i, end := range ends {
		value, err := end(ctx)
		all[i] = read{string(value), err}
	}
	return all
}

// read is the result of a Read.
type read struct {
	value string
	err   error
}

// Read is the value of a node, of any bytes. Absent nodes are fs.ErrNotExist.
func (n nodes) Read(ctx context.Context, path string) (string, error) {
	value, err := n.onNode(ctx, wire.Read, path)
	return string(value), err
}

// Write sets the value of a node and creates it and its parents if need be. Path
// and value together are at most 4095 bytes, on the xenbus device 4079.
func (n nodes) Write(ctx context.Context, path, value string) error {
	if err := ValidPath(path); err != nil {
		return &Error{Op: wire.Write, Path: path, Errno: syscall.EINVAL, Detail: err.Error()}
	}
	_, err := n.call(ctx, wire.Write, path, append(wire.JoinNUL(path), value...))
	return err
}

// Mkdir makes sure that there is a node, and leaves an existing one alone.
func (n nodes) Mkdir(ctx context.Context, path string) error {
	_, err := n.onNode(ctx, wire.Mkdir, path)
	return err
}

// Remove removes a node and all below it; it is no error if there is none.
func (n nodes) Remove(ctx context.Context, path string) error {
	_, err := n.onNode(ctx, wire.Rm, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the daemons do not agree when absence is an error
	}
	return err
}

// Exists reports whether there is such a node.
func (n nodes) Exists(ctx context.Context, path string) (bool, error) {
	_, err := n.onNode(ctx, wire.Read, path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Perms is a node's permission list; its first entry names the owner.
func (n nodes) Perms(ctx context.Context, path string) (wire.Perms, error) {
	payload, err := n.onNode(ctx, wire.GetPerms, path)
	if err != nil {
		return nil, err
	}
	entries, ok := wire.SplitNUL(payload)
	if !ok {
		return nil, malformed(wire.GetPerms, path, payload)
	}
	perms, err := wire.ParsePerms(entries)
	if err != nil {
		return nil, malformed(wire.GetPerms, path, payload)
	}
	return perms, nil
}

// SetPerms replaces a node's permission list. That of @introduceDomain and of
// @releaseDomain says who may watch them.
func (n nodes) SetPerms(ctx context.Context, path string, perms wire.Perms) error {
	if len(perms) == 0 {
		return &Error{Op: wire.SetPerms, Path: path, Errno: syscall.EINVAL, Detail: "no permissions given"}
	}
	_, err := n.onNode(ctx, wire.SetPerms, path, perms.Strings()...)
	return err
}

// List is the names of a node's children: from the C daemon in the order in
// which they were created, from oxenstored sorted.
func (n nodes) List(ctx context.Context, path string) ([]string, error) {
	payload, err := n.onNode(ctx, wire.Directory, path)
	if errors.Is(err, syscall.E2BIG) {
		return n.listParts(ctx, path)
	}
	if err != nil {
		return nil, err
	}
	names, ok := wire.SplitNUL(payload)
	if !ok || slices.Contains(names, "") {
		return nil, malformed(wire.Directory, path, payload)
	}
	return names, nil
}

// listParts lists a directory that does not fit into one reply, and begins again
// when it changes meanwhile. Each reply is a generation number and as many whole
// names as fit; one more empty string ends the last. (docs/misc/xenstore.txt,
// DIRECTORY_PART)
func (n nodes) listParts(ctx context.Context, path string) ([]string, error) {
	var generation string
	var all []byte
	for {
		payload, err := n.onNode(ctx, wire.DirectoryPart, path, strconv.Itoa(len(all)))
		if err != nil {
			return nil, err
		}
		gen, part, ok := bytes.Cut(payload, []byte{0})
		if !ok || len(part) == 0 || part[len(part)-1] != 0 || len(all)+len(part) > maxReply {
			return nil, malformed(wire.DirectoryPart, path, payload)
		}
		if len(all) > 0 && string(gen) != generation {
			all = all[:0]
			continue
		}
		generation = string(gen)
		last := len(part) == 1 || part[len(part)-2] == 0
		if last {
			part = part[:len(part)-1]
		}
		all = append(all, part...)
		if last {
			break
		}
	}
	names, _ := wire.SplitNUL(all)
	if slices.Contains(names, "") {
		return nil, malformed(wire.DirectoryPart, path, all)
	}
	return names, nil
}

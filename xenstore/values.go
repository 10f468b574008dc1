package xenstore

import (
	"context"
	"errors"
	"io/fs"
)

// Values reads node after node and keeps the first failure, so that code which
// needs many nodes can look at the error once. A node that is absent, or that
// this domain may not read, is no failure.
type Values struct {
	ctx   context.Context
	r     Reader
	known map[string]read
	err   error
}

// NewValues reads through r, a Store, a transaction or what WaitUntil gives.
func NewValues(ctx context.Context, r Reader) *Values { return &Values{ctx: ctx, r: r} }

// Prefetch reads nodes in about the time that one takes, for the Gets and Lookups of
// these paths that follow. With a Reader that cannot do that it does nothing.
func (v *Values) Prefetch(paths ...string) {
	r, ok := v.r.(interface {
		readAll(ctx context.Context, paths []string) []read
	})
	if !ok || v.err != nil {
		return
	}
	if v.known == nil {
		v.known = make(map[string]read, len(paths))
	}
	for i, got := range r.readAll(v.ctx, paths) {
		v.known[paths[i]] = got
	}
}

// PrefetchBelow is Prefetch for nodes of one directory.
func (v *Values) PrefetchBelow(dir string, names ...string) {
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = dir + "/" + name
	}
	v.Prefetch(paths...)
}

// Lookup is the value of a node, and whether there is such a node. After a
// failure it is always "" and false.
func (v *Values) Lookup(path string) (string, bool) {
	if v.err != nil {
		return "", false
	}
	got, ok := v.known[path]
	if !ok {
		got.value, got.err = v.r.Read(v.ctx, path)
	}
	if got.err != nil {
		v.keep(got.err)
		return "", false
	}
	return got.value, true
}

// Get is the value of a node, empty when there is no such node.
func (v *Values) Get(path string) string {
	value, _ := v.Lookup(path)
	return value
}

// List is the names of a node's children; an absent node has none.
func (v *Values) List(path string) []string {
	if v.err != nil {
		return nil
	}
	names, err := v.r.List(v.ctx, path)
	v.keep(err)
	return names
}

func (v *Values) keep(err error) {
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		v.err = err
	}
}

// Err is the first failure.
func (v *Values) Err() error { return v.err }

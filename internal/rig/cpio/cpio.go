// Package cpio writes the archives that a Linux kernel unpacks as its first
// root file system ("newc" without checksums; Linux's
// Documentation/driver-api/early-userspace/buffer-format.rst). The same tree
// always gives the same bytes: owner root, no times, names in order.
package cpio

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// File type bits of a mode, as in stat(2).
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeLink = 0o120000
)

// align is the boundary, in bytes, of headers and contents.
const align = 4

// Tree is a root file system in the making. The zero value is empty. It is not
// safe for concurrent use.
type Tree struct {
	nodes map[string]node // by slash-separated path without a leading slash
}

// node is one entry; a file's content is data, or the host file from if set.
type node struct {
	mode uint32
	data []byte
	from string
}

// Dir adds an empty directory, and its parents.
func (t *Tree) Dir(paths ...string) {
	for _, p := range paths {
		p = clean(p)
		if p == "" {
			continue
		}
		if _, ok := t.nodes[p]; !ok {
			t.add(p, node{mode: typeDir | 0o755})
		}
	}
}

// File adds a file with this content, and its parents.
func (t *Tree) File(p string, perm fs.FileMode, data []byte) {
	t.add(clean(p), node{mode: typeFile | uint32(perm.Perm()), data: data})
}

// Copy adds a file whose content and permissions are those of a host file at
// the time of WriteTo; a symbolic link is followed.
func (t *Tree) Copy(p, hostFile string) {
	t.add(clean(p), node{mode: typeFile, from: hostFile})
}

// Symlink adds a symbolic link.
func (t *Tree) Symlink(p, target string) {
	t.add(clean(p), node{mode: typeLink | 0o777, data: []byte(target)})
}

// Has reports whether the tree has an entry at p.
func (t *Tree) Has(p string) bool {
	_, ok := t.nodes[clean(p)]
	return ok
}

func clean(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

func (t *Tree) add(p string, n node) {
	if t.nodes == nil {
		t.nodes = make(map[string]node)
	}
	t.Dir(path.Dir(p))
	t.nodes[p] = n
}

// WriteTo writes the whole archive. Archives may be concatenated: the kernel
// unpacks one after the other.
func (t *Tree) WriteTo(w io.Writer) (int64, error) {
	out := &writer{w: bufio.NewWriterSize(w, 1<<20)}
	// A parent sorts before what is in it, which is the order the kernel needs.
	for i, p := range slices.Sorted(maps.Keys(t.nodes)) {
		if err := out.entry(uint32(i+1), p, t.nodes[p]); err != nil {
			return out.n, fmt.Errorf("cpio entry %s: %w", p, err)
		}
	}
	if err := out.entry(0, "TRAILER!!!", node{}); err != nil {
		return out.n, err
	}
	return out.n, out.w.Flush()
}

// writer counts what it writes, for the padding.
type writer struct {
	w *bufio.Writer
	n int64
}

func (o *writer) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	o.n += int64(n)
	return n, err
}

func (o *writer) pad() error {
	_, err := o.Write(make([]byte, (align-o.n%align)%align))
	return err
}

func (o *writer) entry(ino uint32, name string, n node) error {
	var (
		content io.Reader = strings.NewReader(string(n.data))
		size              = int64(len(n.data))
		mode              = n.mode
	)
	if n.from != "" {
		f, err := os.Open(n.from)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		content, size, mode = f, st.Size(), mode|uint32(st.Mode().Perm())
	}
	if size >= 1<<32 {
		return fmt.Errorf("%d bytes do not fit the format", size)
	}
	const links = 1
	fmt.Fprintf(o, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		ino, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	if err := o.pad(); err != nil {
		return err
	}
	if m, err := io.Copy(o, content); err != nil {
		return err
	} else if m != size {
		return fmt.Errorf("read %d bytes of a file of %d", m, size)
	}
	return o.pad()
}

package storeserver

import (
	"strconv"
	"strings"
	"syscall"

	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// The special nodes, which exist only to be watched.
const (
	introduceDomain = "@introduceDomain"
	releaseDomain   = "@releaseDomain"
)

// homeOf is the directory of a domain's relative paths, with its slash.
func homeOf(dom xen.DomID) string { return "/local/domain/" + dom.String() + "/" }

// absolute turns a path from a request into one from the root, and checks it.
func (c *conn) absolute(path string) (string, error) {
	switch {
	case path == "" || path[0] == '@':
		return "", syscall.EINVAL
	case path[0] == '/':
		if len(path) > wire.MaxAbsPath {
			return "", syscall.EINVAL
		}
	case len(path) > wire.MaxRelPath:
		return "", syscall.EINVAL
	default:
		path = c.home + path
	}
	if !validPath(path) || len(path)-homeLen(path) > c.srv.quota.PathMax {
		return "", syscall.EINVAL
	}
	return path, nil
}

// watchPath is absolute for the path of a watch, which may also be a special
// node; any name with an @ can be watched, though only two ever fire.
func (c *conn) watchPath(path string) (string, error) {
	if strings.HasPrefix(path, "@") {
		if len(path) > wire.MaxRelPath {
			return "", syscall.EINVAL
		}
		return path, nil
	}
	return c.absolute(path)
}

// validPath checks the characters and slashes of an absolute path.
func validPath(path string) bool {
	if path == "/" {
		return true
	}
	if path == "" || path[0] != '/' || path[len(path)-1] == '/' || strings.Contains(path, "//") {
		return false
	}
	for _, b := range []byte(path) {
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9':
		case b == '-', b == '/', b == '_', b == '@':
		default:
			return false
		}
	}
	return true
}

// homeLen is the length of a leading /local/domain/N/, which the path quota
// does not count.
func homeLen(path string) int {
	rest, ok := strings.CutPrefix(path, "/local/domain/")
	if !ok {
		return 0
	}
	number, _, ok := strings.Cut(rest, "/")
	if !ok || len(number) > 5 {
		return 0
	}
	if _, err := strconv.ParseUint(number, 10, 32); err != nil {
		return 0
	}
	return len("/local/domain/") + len(number) + 1
}

// split cuts a path other than the root into its parent and its own name.
func split(path string) (parent, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 1)], path[i+1:]
}

// join is the path of a child.
func join(parent, name string) string {
	if parent == "/" {
		return "/" + name
	}
	return parent + "/" + name
}

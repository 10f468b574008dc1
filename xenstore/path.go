package xenstore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// ValidPath returns nil for the path of a node, and else says what is wrong with
// it. Paths are made of the characters A-Z a-z 0-9 - / _ @, have no empty part
// and no slash at the end, and are at most 3072 bytes long, or 2048 when they
// are relative, that is do not begin with a slash. The names of special watches
// such as @releaseDomain are not paths of nodes. (docs/misc/xenstore.txt;
// lengths from io/xs_wire.h)
func ValidPath(path string) error { return checkPath(path, false) }

// checkPath is ValidPath; special also allows the names that begin with @.
func checkPath(path string, special bool) error {
	limit := wire.MaxRelPath
	if strings.HasPrefix(path, "/") {
		limit = wire.MaxAbsPath
	}
	switch {
	case path == "":
		return errors.New("the path is empty")
	case path == "/":
		return nil
	case len(path) > limit:
		return fmt.Errorf("the path is %d bytes long, the limit is %d", len(path), limit)
	case strings.HasSuffix(path, "/"):
		return errors.New("the path ends in a slash")
	case strings.Contains(path, "//"):
		return errors.New("the path has an empty part")
	case path[0] == '@' && !special:
		return errors.New("names that begin with @ are for watches, not for nodes")
	}
	for i := range len(path) {
		if !pathByte(path[i]) {
			return fmt.Errorf("%q is not allowed in a path, only A-Z a-z 0-9 - / _ @", path[i])
		}
	}
	return nil
}

func pathByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '/' || c == '_' || c == '@'
}

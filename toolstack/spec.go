package toolstack

import (
	"fmt"
	"io/fs"
	"strconv"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/xenstore"
)

// ours are the keys that stock Xen does not know, only those that are set.
func ours(spec channel.Spec) []string {
	var pairs []string
	add := func(key, value string) {
		if value != "" {
			pairs = append(pairs, key, value)
		}
	}
	if spec.Mode != 0 {
		add("mode", fmt.Sprintf("%04o", uint32(spec.Mode.Perm())))
	}
	add("owner", spec.Owner)
	add("group", spec.Group)
	add("allow", spec.Allow)
	if spec.Spool != 0 {
		add("spool", strconv.FormatInt(spec.Spool, 10))
	}
	add("overflow", string(spec.Overflow))
	return pairs
}

// ReadSpec is the spec of the channel whose backend's directory is dir, from the
// nodes that Attach, or libxl, wrote there. Nodes of ours that make no sense are
// an error, since whoever wrote them meant something.
func ReadSpec(v *xenstore.Values, dir string) (channel.Spec, error) {
	v.PrefetchBelow(dir, "name", "connection", "path", "owner", "group", "allow", "overflow", "mode", "spool")
	spec := channel.Spec{
		Name:       v.Get(dir + "/name"),
		Connection: channel.Connection(v.Get(dir + "/connection")),
		Path:       v.Get(dir + "/path"),
		Owner:      v.Get(dir + "/owner"),
		Group:      v.Get(dir + "/group"),
		Allow:      v.Get(dir + "/allow"),
		Overflow:   channel.Overflow(v.Get(dir + "/overflow")),
	}
	if mode, ok := v.Lookup(dir + "/mode"); ok {
		bits, err := strconv.ParseUint(mode, 8, 12)
		if err != nil {
			return spec, fmt.Errorf("%s/mode: %q is not an octal number", dir, mode)
		}
		spec.Mode = fs.FileMode(bits)
	}
	if size, ok := v.Lookup(dir + "/spool"); ok {
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil {
			return spec, fmt.Errorf("%s/spool: %q is not a number of bytes", dir, size)
		}
		spec.Spool = n
	}
	if err := v.Err(); err != nil {
		return spec, err
	}
	if err := spec.Validate(); err != nil {
		return spec, fmt.Errorf("%s: %w", dir, err)
	}
	return spec, nil
}

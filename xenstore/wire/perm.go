package wire

import (
	"fmt"
	"strconv"
	"strings"
)

// Access is what a permission entry allows, by its letter on the wire.
type Access byte

// The letters of docs/misc/xenstore.txt.
const (
	AccessNone  Access = 'n'
	AccessRead  Access = 'r'
	AccessWrite Access = 'w'
	AccessBoth  Access = 'b'
)

// CanRead reports whether the access includes reading.
func (a Access) CanRead() bool { return a == AccessRead || a == AccessBoth }

// CanWrite reports whether the access includes writing.
func (a Access) CanWrite() bool { return a == AccessWrite || a == AccessBoth }

// Perm is one entry of a node's permission list. The first entry of a list
// names the owner, who may do everything, and what all domains without an entry
// of their own may do.
type Perm struct {
	Access Access
	DomID  uint16
}

// String is the form on the wire, such as "r5".
func (p Perm) String() string { return string(rune(p.Access)) + strconv.Itoa(int(p.DomID)) }

// ParsePerm reads one entry such as "n0".
func ParsePerm(s string) (Perm, error) {
	if s == "" || !strings.ContainsRune("nrwb", rune(s[0])) {
		return Perm{}, fmt.Errorf("permission %q does not begin with one of n, r, w, b", s)
	}
	n, err := strconv.ParseUint(s[1:], 10, 16)
	if err != nil || s[1] == '+' {
		return Perm{}, fmt.Errorf("permission %q does not end in a domid", s)
	}
	return Perm{Access(s[0]), uint16(n)}, nil
}

// Perms is a node's permission list.
type Perms []Perm

// String is the list with commas between, such as "n0,r5".
func (ps Perms) String() string {
	parts := make([]string, len(ps))
	for i, p := range ps {
		parts[i] = p.String()
	}
	return strings.Join(parts, ",")
}

// ParsePerms reads a list of entries; none at all is an error, as every node
// has an owner.
func ParsePerms(entries []string) (Perms, error) {
	if len(entries) == 0 {
		return nil, fmt.Errorf("a permission list needs at least one entry")
	}
	ps := make(Perms, len(entries))
	for i, e := range entries {
		p, err := ParsePerm(e)
		if err != nil {
			return nil, err
		}
		ps[i] = p
	}
	return ps, nil
}

// Strings is the list as separate entries, for a SET_PERMS payload.
func (ps Perms) Strings() []string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.String()
	}
	return out
}

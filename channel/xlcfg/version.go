package xlcfg

import (
	"fmt"
	"strconv"
	"strings"
)

// Version is a release of Xen, of which xl is a part. The zero Version is one
// that nobody named.
type Version struct{ Major, Minor, Patch int }

// ParseVersion reads a version as xl info prints it: 4.18, 4.17.5, 4.21-rc.
func ParseVersion(s string) (Version, error) {
	number := s[:span(s, func(c byte) bool { return c == '.' || c >= '0' && c <= '9' })]
	parts := strings.Split(number, ".")
	rest := s[len(number):]
	if len(parts) < 2 || len(parts) > 3 || rest != "" && rest[0] != '-' && rest[0] != '+' {
		return Version{}, fmt.Errorf("%q is not a version of Xen; write one like 4.17.5", s)
	}
	var v [3]int
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil {
			return Version{}, fmt.Errorf("%q is not a version of Xen; write one like 4.17.5", s)
		}
		v[i] = n
	}
	return Version{v[0], v[1], v[2]}, nil
}

// String is MAJOR.MINOR.PATCH, or "" for the zero Version.
func (v Version) String() string {
	if v == (Version{}) {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
}

// losesFirst says that xl makes no device for the first channel of a domain: it
// gives it the index of the primary console.
func (v Version) losesFirst() bool {
	fixed := map[int]int{18: 5, 19: 2, 20: 1}
	patch, ok := fixed[v.Minor]
	return v.before(18) || v.Major == 4 && ok && v.Patch < patch
}

// cutsValues says that xl cuts the value of a channel's key at the first '='.
func (v Version) cutsValues() bool { return v.before(18) }

// before says that v is older than 4.minor.
func (v Version) before(minor int) bool { return v.Major < 4 || v.Major == 4 && v.Minor < minor }

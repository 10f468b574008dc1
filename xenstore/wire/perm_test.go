package wire

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePerm(t *testing.T) {
	for s, want := range map[string]Perm{
		"n0": {AccessNone, 0}, "r5": {AccessRead, 5}, "w65535": {AccessWrite, 65535}, "b7": {AccessBoth, 7},
	} {
		got, err := ParsePerm(s)
		if err != nil || got != want || got.String() != s {
			t.Errorf("%s became %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "r", "5", "x5", "r-1", "r+1", "r65536", "r 5", "r5 ", "r0x1", "r1_0", "R5"} {
		if got, err := ParsePerm(s); err == nil || got != (Perm{}) {
			t.Errorf("%q became %v, %v", s, got, err)
		}
	}
}

func TestAccess(t *testing.T) {
	for a, want := range map[Access][2]bool{
		AccessNone: {false, false}, AccessRead: {true, false}, AccessWrite: {false, true}, AccessBoth: {true, true},
	} {
		if got := [2]bool{a.CanRead(), a.CanWrite()}; got != want {
			t.Errorf("%c: %v", a, got)
		}
	}
}

func FuzzParsePerms(f *testing.F) {
	for _, s := range []string{"n0", "n0,r5", "", "n0,", "b1,w2,r65535", "r007"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ps, err := ParsePerms(strings.Split(s, ","))
		if err != nil {
			if ps != nil {
				t.Fatalf("%v besides %v", ps, err)
			}
			return
		}
		again, err := ParsePerms(ps.Strings())
		if err != nil || !cmp.Equal(ps, again) {
			t.Fatalf("%q: %v became %v, %v", s, ps, again, err)
		}
		if len(s) > 0 && !strings.Contains(s, "0") && ps.String() != s {
			t.Fatalf("%q became %q", s, ps.String())
		}
	})
}

func TestParsePerms_empty(t *testing.T) {
	if ps, err := ParsePerms(nil); err == nil || ps != nil {
		t.Errorf("got %v, %v", ps, err)
	}
}

package xlcfg

import "testing"

func TestParseVersion(t *testing.T) {
	for s, want := range map[string]Version{
		"4.17": {4, 17, 0}, "4.17.5": {4, 17, 5}, "4.21-rc": {4, 21, 0}, "4.20.1-pre+debian": {4, 20, 1}, "5.0.0+x": {5, 0, 0},
	} {
		if got, err := ParseVersion(s); got != want || err != nil {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "4", "4.", ".4", "4.17.", "4..5", "4.17.5.1", "4.17x", "x4.17", "-4.17", " 4.17", "4.99999999999999999999"} {
		if got, err := ParseVersion(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestVersion_bugs(t *testing.T) {
	for s, want := range map[string]struct{ losesFirst, cutsValues bool }{
		"4.16.3": {true, true}, "4.17.0": {true, true}, "4.17.99": {true, true},
		"4.18.0": {true, false}, "4.18.4": {true, false}, "4.18.5": {false, false},
		"4.19.1": {true, false}, "4.19.2": {false, false},
		"4.20": {true, false}, "4.20.1": {false, false}, "4.21.0": {false, false}, "5.0": {false, false},
	} {
		v, err := ParseVersion(s)
		if err != nil || v.losesFirst() != want.losesFirst || v.cutsValues() != want.cutsValues {
			t.Errorf("%s (%v): loses the first %v, cuts values %v, want %v", s, err, v.losesFirst(), v.cutsValues(), want)
		}
	}
}

package domcfg

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/xenchan/xenchan/channel"
)

func TestSource_places(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("a\n é")), 0, 30, -1).Draw(t, "text")
		offset := rapid.IntRange(0, len(text)).Draw(t, "offset")
		before := text[:offset]
		want := Place{Line: strings.Count(before, "\n") + 1, Col: offset - strings.LastIndexByte(before, '\n')}
		s := NewSource("f", text)
		if got := s.Place(offset); got != want {
			t.Fatalf("%q at %d is at %v, want %v", text, offset, got, want)
		}
		if m := s.Message(want, "", "x", "", ""); m.Text != strings.Split(text, "\n")[want.Line-1] {
			t.Fatalf("%q at %v is on line %q", text, want, m.Text)
		}
	})
}

func TestSource_edits(t *testing.T) {
	s := NewSource("f", "0123456789")
	got := s.Apply([]Edit{{5, 5, "b"}, {8, 10, ""}, {0, 2, "a"}, {5, 5, "c"}})
	if got != "a234bc567" {
		t.Error(got)
	}
	for _, c := range []struct{ text, removed string }{
		{"a\n \tX \r\nb", "a\nb"},
		{"a\nX b\n", "a\n b\n"},
		{"a X\nb", "a \nb"},
		{"X\nb", "b"},
		{"a\nX", "a\n"},
	} {
		s := NewSource("f", c.text)
		at := strings.IndexByte(c.text, 'X')
		start, end := s.WholeLines(at, at+1)
		if got := s.Apply([]Edit{{Start: start, End: end}}); got != c.removed {
			t.Errorf("%q without X is %q, want %q", c.text, got, c.removed)
		}
	}
}

func TestReport_isBoundedAndInOrder(t *testing.T) {
	r := &Report{Source: NewSource("f", strings.Repeat("\n", 200))}
	for i := 150; i > 0; i-- {
		r.Fail(Place{i, 1}, "", "refused", "", "")
		r.Unserve(Place{i, 1}, "", "unserved", "", "")
		r.Warn(Place{i, 1}, "", "warning", "", "")
	}
	warnings, err := r.Served()
	errs, _ := errors.AsType[Errors](err)
	if len(errs) != maxMessages+1 || len(warnings) != maxMessages {
		t.Fatalf("%d errors, %d warnings", len(errs), len(warnings))
	}
	for i := range maxMessages - 1 {
		if errs[i].Line > errs[i+1].Line || warnings[i].Line > warnings[i+1].Line {
			t.Fatalf("line %d, %d before %d, %d", errs[i].Line, warnings[i].Line, errs[i+1].Line, warnings[i+1].Line)
		}
	}
	if last := errs[maxMessages].What; last != "too many errors" {
		t.Error(last)
	}
}

func TestReport_stockAndServed(t *testing.T) {
	r := &Report{Source: NewSource("f", "")}
	spec := channel.Spec{Name: "a", Connection: channel.Socket, Path: "/a"}
	r.Together([]Located{{Spec: spec, NameAt: Place{1, 1}, PathAt: Place{1, 1}}, {Spec: spec, NameAt: Place{1, 1}, PathAt: Place{1, 1}}})
	if warnings, err := r.Served(); len(warnings) != 1 || err == nil || !strings.Contains(err.Error(), `two channels have the name "a"`) {
		t.Errorf("served: %v, %v", warnings, err)
	}
	if warnings, err := r.Stock(); len(warnings) != 2 || err != nil {
		t.Errorf("stock: %v, %v", warnings, err)
	}
}

func TestIsUUID(t *testing.T) {
	const good = "6c8a31f0-5B0A-4a55-9d2f-0d8b1a3f7e11"
	if !IsUUID(good) {
		t.Error(good)
	}
	for i := range good {
		if bad := good[:i] + "g" + good[i+1:]; IsUUID(bad) || IsUUID(good[:i]) {
			t.Error(bad, good[:i])
		}
	}
}

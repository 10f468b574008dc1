package xenstore

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/xenstore/wire"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t testing.TB, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestStore_immediate(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	ok(t, s.Write(ctx, "/a", "one\x00two"))
	ok(t, s.Write(ctx, "/a/b", ""))
	ok(t, s.Mkdir(ctx, "/a/c"))
	equal(t, must(s.Read(ctx, "/a"))(t), "one\x00two")
	equal(t, must(s.Read(ctx, "/a/b"))(t), "")
	equal(t, must(s.List(ctx, "/a"))(t), []string{"b", "c"})
	equal(t, len(must(s.List(ctx, "/a/b"))(t)), 0)
	equal(t, must(s.Exists(ctx, "/a/c"))(t), true)
	equal(t, must(s.Exists(ctx, "/a/d"))(t), false)
	ok(t, s.Remove(ctx, "/a/c"))
	ok(t, s.Remove(ctx, "/a/c"))
	ok(t, s.Remove(ctx, "/no/such/parent"))
	equal(t, must(s.Exists(ctx, "/a/c"))(t), false)
	perms := wire.Perms{{Access: wire.AccessNone, DomID: 0}, {Access: wire.AccessRead, DomID: 5}}
	ok(t, s.SetPerms(ctx, "/a", perms))
	equal(t, must(s.Perms(ctx, "@releaseDomain"))(t), perms)
	equal(t, must(s.DomainPath(ctx, 5))(t), "/local/domain/5")
	equal(t, must(s.IsIntroduced(ctx, 0))(t), true)
	equal(t, must(s.IsIntroduced(ctx, 1))(t), false)
	ok(t, s.Introduce(ctx, 7, 1<<40, 3))
	ok(t, s.Release(ctx, 7))
	equal(t, must(s.Control(ctx, "log", "on"))(t), "log,on")

	log := f.requests()
	for _, want := range []string{"SET_PERMS /a n0 r5", "INTRODUCE 7 1099511627776 3", "RELEASE 7"} {
		f.waitFor(want)
	}
	equal(t, log[0], "WRITE /a one two")
}

func TestStore_errors(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	_, err := s.Read(ctx, "/local/domain/9/name")
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, syscall.ENOENT) {
		t.Errorf("%v is not ErrNotExist", err)
	}
	equal(t, err.Error(), "xenstore: read /local/domain/9/name: no such file or directory")
	e, isError := errors.AsType[*Error](err)
	if !isError || e.Op != wire.Read || e.Path != "/local/domain/9/name" || e.Errno != syscall.ENOENT {
		t.Errorf("got %#v", e)
	}
	for name, want := range map[string]error{
		"EACCES": fs.ErrPermission, "EPERM": fs.ErrPermission, "EQUOTA": syscall.EDQUOT,
		"EAGAIN": syscall.EAGAIN, "nonsense": syscall.EINVAL, "": syscall.EINVAL,
	} {
		f.mu.Lock()
		f.hook = func(m wire.Message) bool { f.refuse(m, name); return true }
		f.mu.Unlock()
		if err := s.Mkdir(ctx, "/x"); !errors.Is(err, want) {
			t.Errorf("%s gave %v, want %v", name, err, want)
		}
	}
}

// What would make the daemon drop the connection must not reach it.
func TestStore_refusesBadRequests(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	invalid := func(err error) {
		t.Helper()
		if !errors.Is(err, syscall.EINVAL) {
			t.Errorf("got %v, want EINVAL", err)
		}
	}
	for _, path := range []string{
		"", "/a/", "//", "/a b", "a.b", "/a\x00b", "@releaseDomain",
		"/local/domain/", "/" + strings.Repeat("x", wire.MaxAbsPath), strings.Repeat("x", wire.MaxRelPath+1),
	} {
		_, err := s.Read(ctx, path)
		invalid(err)
		invalid(s.Write(ctx, path, "v"))
		invalid(s.Remove(ctx, path))
		_, err = s.List(ctx, path)
		invalid(err)
		if path != "@releaseDomain" {
			_, err = s.Watch(ctx, path)
			invalid(err)
			invalid(s.SetPerms(ctx, path, wire.Perms{{Access: 'n'}}))
		}
	}
	invalid(s.SetPerms(ctx, "/a", nil))
	_, err := s.Control(ctx)
	invalid(err)
	_, err = s.Control(ctx, "a\x00b")
	invalid(err)
	if err := s.Write(ctx, "/a", strings.Repeat("v", wire.MaxPayload-2)); !errors.Is(err, syscall.E2BIG) {
		t.Errorf("too large a value gave %v", err)
	}
	equal(t, f.requests(), []string(nil))
	ok(t, s.Write(ctx, "/a", strings.Repeat("v", wire.MaxPayload-3)))

	err = s.Write(ctx, "/a b\n", "v")
	equal(t, err.Error(), `xenstore: write "/a b\n": invalid argument: ' ' is not allowed in a path, only A-Z a-z 0-9 - / _ @`)
}

func TestStore_listParts(t *testing.T) {
	s, p := newPeer(t, false)
	long := strings.Repeat("n", 20) + "\x00"
	go func() {
		p.refuse(p.want(wire.Directory), "E2BIG")
		for _, step := range []struct{ offset, reply string }{
			{"0", "1\x00old\x00" + long},
			{"25", "2\x00other\x00"}, // changed: begin again
			{"0", "2\x00new\x00" + long},
			{"25", "3\x00\x00"}, // changed again, in what looks like the end
			{"0", "3\x00newer\x00" + long},
			{"27", "3\x00last\x00\x00"},
		} {
			m := p.want(wire.DirectoryPart)
			if want := "/big\x00" + step.offset + "\x00"; string(m.Payload) != want {
				t.Errorf("got %q, want %q", m.Payload, want)
			}
			p.reply(m, step.reply)
		}
	}()
	equal(t, must(s.List(t.Context(), "/big"))(t), []string{"newer", strings.Repeat("n", 20), "last"})
}

func TestStore_listPartsEnds(t *testing.T) {
	for reply, want := range map[string][]string{
		"1\x00\x00":           nil, // emptied meanwhile
		"1\x00a\x00\x00":      {"a"},
		"1\x00a\x00b\x00\x00": {"a", "b"},
	} {
		s, p := newPeer(t, false)
		go func() {
			p.refuse(p.want(wire.Directory), "E2BIG")
			p.reply(p.want(wire.DirectoryPart), reply)
		}()
		equal(t, must(s.List(t.Context(), "/big"))(t), want)
	}
}

func TestStore_malformedReplies(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	reply := ""
	f.hook = func(m wire.Message) bool {
		if m.Type == wire.Directory && strings.HasPrefix(string(m.Payload), "/big") {
			f.refuse(m, "E2BIG")
			return true
		}
		if m.Type == wire.Unwatch || m.Type == wire.TransactionEnd {
			return false
		}
		f.reply(m, reply)
		return true
	}
	big := func() error { _, err := s.List(ctx, "/big"); return err }
	for _, c := range []struct {
		reply string
		call  func() error
	}{
		{"a", func() error { _, err := s.List(ctx, "/a"); return err }},
		{"a\x00\x00b\x00", func() error { _, err := s.List(ctx, "/a"); return err }},
		{"", big},
		{"1", big},
		{"1\x00", big},
		{"1\x00a", big},
		{"1\x00\x00a\x00\x00", big},
		{"", func() error { _, err := s.Perms(ctx, "/a"); return err }},
		{"n0", func() error { _, err := s.Perms(ctx, "/a"); return err }},
		{"x0\x00", func() error { _, err := s.Perms(ctx, "/a"); return err }},
		{"", func() error { _, err := s.DomainPath(ctx, 1); return err }},
		{"/local/domain/\x00", func() error { _, err := s.DomainPath(ctx, 1); return err }},
		{"?\x00", func() error { _, err := s.IsIntroduced(ctx, 1); return err }},
		{"0\x00", func() error { return s.Tx(ctx, func(*Tx) error { return nil }) }},
		{"-1\x00", func() error { return s.Tx(ctx, func(*Tx) error { return nil }) }},
		{strings.Repeat("9", 4000), func() error { return s.Tx(ctx, func(*Tx) error { return nil }) }},
	} {
		f.mu.Lock()
		reply = c.reply
		f.mu.Unlock()
		if err := c.call(); !errors.Is(err, syscall.EPROTO) {
			t.Errorf("%.40q gave %v, want EPROTO", c.reply, err)
		}
	}
}

func TestStore_cancelledBefore(t *testing.T) {
	s, f := newFake(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Write(ctx, "/a", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	ok(t, s.Write(t.Context(), "/b", ""))
	equal(t, f.requests(), []string{"WRITE /b"})
}

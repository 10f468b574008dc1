package toolstack_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
)

var made = toolstack.Domain{ID: 9, Name: "made"}

// maker makes a domain in the test's store, and fails where it is told to.
type maker struct {
	h    *host
	fail map[string]error
	made func() // called when the domain is there
	did  []string
}

func (m *maker) step(name string) error {
	m.did = append(m.did, name)
	return m.fail[name]
}

func (m *maker) Create(context.Context) (toolstack.Domain, error) {
	if err := m.step("create"); err != nil {
		return toolstack.Domain{}, err
	}
	m.h.addDomain(made)
	if m.made != nil {
		m.made()
	}
	return made, nil
}

func (m *maker) Unpause(context.Context, xen.DomID) error {
	// The channels are there before the first instruction runs.
	names, _ := m.h.store.List(context.Background(), "/local/domain/9/device/console")
	return m.step(fmt.Sprintf("unpause with %d", len(names)))
}

func (m *maker) Destroy(ctx context.Context, id xen.DomID) error {
	if err := m.step("destroy"); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, path := range []string{"/local/domain/9", "/libxl/9", "/local/domain/0/backend/console"} {
		m.h.check(m.h.store.Remove(ctx, path))
	}
	return nil
}

func TestCreate(t *testing.T) {
	bad := channel.Spec{Name: "b", Connection: channel.PTY, Backend: "nobody"}
	broken := errors.New("xl's own words")
	for _, c := range []struct {
		name   string
		specs  []channel.Spec
		paused bool
		fail   map[string]error
		did    string
		says   string
		is     error
	}{
		{"runs", []channel.Spec{socket("a"), socket("b")}, false, nil, "create, unpause with 2", "", nil},
		{"paused", []channel.Spec{socket("a")}, true, nil, "create", "", nil},
		{"without channels", nil, false, nil, "create, unpause with 0", "", nil},
		{"no domain", []channel.Spec{socket("a")}, false, map[string]error{"create": broken}, "create", "xl's own words", broken},
		{"no backend", []channel.Spec{socket("a"), bad}, false, nil, "create, destroy", "attach b to made (domain 9): backend: no such domain: \"nobody\"\nmade (domain 9) was destroyed again", toolstack.ErrNoDomain},
		{"does not run", []channel.Spec{socket("a")}, false, map[string]error{"unpause with 1": broken}, "create, unpause with 1, destroy", "xl's own words\nmade (domain 9) was destroyed again", broken},
		{"cannot be undone", []channel.Spec{bad}, false, map[string]error{"destroy": broken}, "create, destroy", "made (domain 9) is left as it is, for it could not be destroyed: xl's own words", broken},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			defer h.close()
			m := &maker{h: h, fail: c.fail}
			before := h.dump()
			d, err := h.tools.Create(t.Context(), m, c.specs, c.paused)
			if got := strings.Join(m.did, ", "); got != c.did {
				t.Errorf("it did %s, want %s", got, c.did)
			}
			if c.says == "" {
				h.check(err)
				for i, spec := range c.specs {
					if got, err := h.tools.Find(t.Context(), d, spec.Name); err != nil || got.DevID != i+1 {
						t.Errorf("%s: devid %d, %v", spec.Name, got.DevID, err)
					}
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || !errors.Is(err, c.is) {
				t.Errorf("%v", err)
			}
			if left := h.added(before, h.dump()); c.fail["destroy"] == nil && len(left) > 0 {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}

// A domain that dies in the middle, and a person who interrupts.
func TestCreate_inTheMiddle(t *testing.T) {
	for _, specs := range [][]channel.Spec{nil, {socket("a")}} {
		h := newHost(t)
		defer h.close()
		before := h.dump()
		ctx, cancel := context.WithCancel(t.Context())
		m := &maker{h: h, made: cancel}
		if _, err := h.tools.Create(ctx, m, specs, false); !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted: %v", err)
		}
		if left := h.added(before, h.dump()); len(left) > 0 {
			t.Errorf("left behind: %s", left)
		}
	}
	h := newHost(t)
	defer h.close()
	m := &maker{h: h, fail: map[string]error{"destroy": errors.New("a is an invalid domain identifier")}}
	m.made = func() {
		h.check(h.store.Remove(t.Context(), "/local/domain/9"))
		h.check(h.store.Remove(t.Context(), "/libxl/9"))
	}
	before := h.dump()
	_, err := h.tools.Create(t.Context(), m, []channel.Spec{socket("a")}, false)
	if !errors.Is(err, toolstack.ErrNoDomain) || strings.Contains(err.Error(), "could not") {
		t.Errorf("died: %v", err)
	}
	if after := h.dump(); !slices.Equal(before, after) {
		t.Errorf("something is left: %s", h.added(before, after))
	}
}

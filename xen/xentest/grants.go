package xentest

import (
	"bytes"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/xen"
)

func (s *suite) grants(t *testing.T) {
	t.Run("Share_zeroed", s.shareZeroed)
	t.Run("Share_nothing", s.shareNothing)
	t.Run("Map_sameMemory", s.mapSameMemory)
	t.Run("Map_twice", s.mapTwice)
	t.Run("Map_againAfterClose", s.mapAgain)
	t.Run("Map_refused", s.mapRefused)
	t.Run("Map_outlivesGrant", s.mapOutlives)
	t.Run("Map_concurrently", s.mapConcurrently)
	if os.Getpagesize() == xen.PageSize { // a larger page has no room for two owners
		t.Run("Map_inAnyOrder", s.mapAnyOrder)
		t.Run("Map_ofSeveralShares", s.mapSeveralShares)
	}
}

// page is the i-th page of some memory.
func page(p xen.Pages, i int) []byte {
	return p.Bytes()[i*xen.PageSize : (i+1)*xen.PageSize]
}

func fill(b []byte, with byte) {
	for i := range b {
		b[i] = with
	}
}

// wantPage checks every byte of a page.
func wantPage(t *testing.T, what string, b []byte, want byte) {
	t.Helper()
	if !bytes.Equal(b, bytes.Repeat([]byte{want}, xen.PageSize)) {
		t.Errorf("%s: page begins % x, want all %#x", what, b[:4], want)
	}
}

func (s *suite) shareZeroed(t *testing.T) {
	for range 2 { // the second time with pages that had contents
		p := s.share(t, 4)
		if len(p.Bytes()) != 4*xen.PageSize || len(p.Refs()) != 4 {
			t.Fatalf("4 pages are %d bytes and %d references", len(p.Bytes()), len(p.Refs()))
		}
		if refs := slices.Compact(slices.Sorted(slices.Values(p.Refs()))); len(refs) != 4 {
			t.Errorf("references %v are not distinct", p.Refs())
		}
		for i := range 4 {
			wantPage(t, "new page", page(p, i), 0)
		}
		fill(p.Bytes(), 0xaa)
		if err := p.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		_ = p.Close() // must do no harm
	}
}

func (s *suite) shareNothing(t *testing.T) {
	for _, n := range []int{0, -1} {
		if p, err := s.Front.SharePages(s.BackID, n); err == nil {
			_ = p.Close()
			t.Errorf("SharePages(%d) worked", n)
		}
	}
	if p, err := s.Back.MapGrants(s.FrontID); err == nil {
		_ = p.Close()
		t.Error("MapGrants of nothing worked")
	}
}

func (s *suite) mapSameMemory(t *testing.T) {
	front := s.share(t, 3)
	fill(page(front, 0), 1)
	back := s.mapped(t, front.Refs()...)
	if len(back.Bytes()) != 3*xen.PageSize {
		t.Fatalf("3 pages are %d bytes", len(back.Bytes()))
	}
	wantPage(t, "written before the map", page(back, 0), 1)
	fill(page(front, 1), 2)
	wantPage(t, "written by the front", page(back, 1), 2)
	fill(page(back, 2), 3)
	wantPage(t, "written by the back", page(front, 2), 3)
}

func (s *suite) mapTwice(t *testing.T) {
	front := s.share(t, 1)
	one := s.mapped(t, front.Refs()...)
	two := s.mapped(t, front.Refs()...)
	fill(one.Bytes(), 7)
	wantPage(t, "other mapping", two.Bytes(), 7)
	if err := one.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	fill(front.Bytes(), 8)
	wantPage(t, "the mapping that is left", two.Bytes(), 8)
}

func (s *suite) mapAgain(t *testing.T) {
	front := s.share(t, 1)
	for i := range byte(5) {
		back := s.mapped(t, front.Refs()...)
		wantPage(t, "mapped again", back.Bytes(), i)
		fill(back.Bytes(), i+1)
		if err := back.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		_ = back.Close() // must do no harm
	}
}

func (s *suite) mapRefused(t *testing.T) {
	good := s.share(t, 1).Refs()[0]
	_, err := s.Back.MapGrants(s.FrontID, 1<<31)
	wantErrno(t, "a reference that cannot be", err, syscall.EINVAL)
	_, err = s.Back.MapGrants(s.FrontID, good, 1<<31)
	wantErrno(t, "a good and a bad reference", err, syscall.EINVAL)
	_, err = s.Back.MapGrants(noDomain, good)
	wantErrno(t, "a domain that does not exist", err, syscall.EINVAL)

	other, err := s.Front.SharePages(noDomain, 1)
	if err != nil {
		t.Fatalf("SharePages with another domain: %v", err)
	}
	defer other.Close()
	_, err = s.Back.MapGrants(s.FrontID, other.Refs()...)
	wantErrno(t, "pages of another domain", err, syscall.EINVAL)

	ended := s.share(t, 2)
	refs := ended.Refs()
	if err := ended.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	_, err = s.Back.MapGrants(s.FrontID, refs...)
	wantErrno(t, "references that were ended", err, syscall.EINVAL)
	_ = s.mapped(t, good) // is still good
}

// A backend must not be hurt by a frontend that goes first.
func (s *suite) mapOutlives(t *testing.T) {
	front := s.share(t, 2)
	back := s.mapped(t, front.Refs()...)
	fill(page(front, 0), 5)
	if err := front.Close(); err != nil {
		t.Fatalf("Close of the owner: %v", err)
	}
	wantPage(t, "after the grant has ended", page(back, 0), 5)
	fill(page(back, 1), 6)
	wantPage(t, "written after the grant has ended", page(back, 1), 6)
	fresh := s.share(t, 2)
	wantPage(t, "new share beside a mapped old one", page(fresh, 1), 0)
	wantPage(t, "old mapping beside a new share", page(back, 1), 6)
}

func (s *suite) mapConcurrently(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range byte(4) {
		wg.Go(func() {
			for range 25 {
				front, err := s.Front.SharePages(s.BackID, 1)
				if err != nil {
					t.Errorf("SharePages: %v", err)
					return
				}
				fill(front.Bytes(), i+1)
				back, err := s.Back.MapGrants(s.FrontID, front.Refs()...)
				if err != nil {
					t.Errorf("MapGrants: %v", err)
					_ = front.Close()
					return
				}
				wantPage(t, "mapped beside others", back.Bytes(), i+1)
				if err := back.Close(); err != nil {
					t.Errorf("Close of the mapping: %v", err)
				}
				if err := front.Close(); err != nil {
					t.Errorf("Close of the share: %v", err)
				}
			}
		})
	}
}

func (s *suite) mapAnyOrder(t *testing.T) {
	front := s.share(t, 4)
	for i := range 4 {
		fill(page(front, i), byte(i))
	}
	order := []int{3, 0, 1, 2}
	var refs []xen.GrantRef
	for _, i := range order {
		refs = append(refs, front.Refs()[i])
	}
	back := s.mapped(t, refs...)
	for at, i := range order {
		wantPage(t, "mapped in another order", page(back, at), byte(i))
	}
}

func (s *suite) mapSeveralShares(t *testing.T) {
	one, two := s.share(t, 2), s.share(t, 1)
	back := s.mapped(t, one.Refs()[1], two.Refs()[0], one.Refs()[0])
	fill(page(one, 0), 1)
	fill(page(one, 1), 2)
	fill(page(two, 0), 3)
	for at, want := range []byte{2, 3, 1} {
		wantPage(t, "page of several shares", page(back, at), want)
	}
	_ = one.Close()
	wantPage(t, "after one share has ended", page(back, 2), 1)
}

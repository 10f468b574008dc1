package xenstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xenchan/xenchan/xenstore/wire"
)

func TestWaitUntil_wakesOnChange(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	waiting := make(chan struct{}, 100)
	done := make(chan error)
	go func() {
		done <- s.WaitUntil(ctx, func(r Reader) (bool, error) {
			waiting <- struct{}{}
			state, err := r.Read(ctx, "/state")
			if errors.Is(err, fs.ErrNotExist) {
				return false, nil
			}
			return state == "4", err
		})
	}()
	for i := range 5 {
		<-waiting
		f.set("/state", fmt.Sprint(i))
	}
	ok(t, <-done)
	f.waitFor("UNWATCH /state w1")
}

func TestWaitUntil_watchesExactlyWhatIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s, f := newFake(t, map[string]string{"/which": "/one", "/one": "", "/two": ""})
		watched := func() []string {
			synctest.Wait()
			f.mu.Lock()
			defer f.mu.Unlock()
			var paths []string
			for _, w := range f.watches {
				paths = append(paths, w[0])
			}
			slices.Sort(paths)
			return paths
		}
		runs := 0
		done := make(chan error)
		go func() {
			done <- s.WaitUntil(ctx, func(r Reader) (bool, error) {
				runs++
				which, err := r.Read(ctx, "/which")
				if err != nil {
					return false, err
				}
				list, err := r.List(ctx, which)
				if err != nil {
					return false, err
				}
				if _, err := r.Exists(ctx, which); err != nil {
					return false, err
				}
				return len(list) > 0, nil
			})
		}()
		equal(t, watched(), []string{"/one", "/which"})
		before := runs
		f.set("/two", "no matter")
		equal(t, watched(), []string{"/one", "/which"})
		equal(t, runs, before)
		f.set("/which", "/two")
		equal(t, watched(), []string{"/two", "/which"})
		f.set("/which", "/one") // and back: the watch on /one begins anew
		equal(t, watched(), []string{"/one", "/which"})
		f.set("/one/child", "")
		ok(t, <-done)
		equal(t, watched(), []string(nil))
	})
}

// A change right after the read, before WaitUntil waits, must wake it.
func TestWaitUntil_changeDuringRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s, f := newFake(t, map[string]string{"/a": "0"})
		target := "0"
		ok(t, s.WaitUntil(ctx, func(r Reader) (bool, error) {
			value, err := r.Read(ctx, "/a")
			if value == "9" {
				return true, err
			}
			if value != target {
				t.Errorf("read %q, want %q", value, target)
			}
			target = string(value[0] + 1)
			f.set("/a", target)
			return false, err
		}))
	})
}

func TestWaitUntil_returnsItsError(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	mine := errors.New("mine")
	if err := s.WaitUntil(ctx, func(r Reader) (bool, error) {
		_, _ = r.Exists(ctx, "/a")
		return false, mine
	}); err != mine {
		t.Errorf("got %v", err)
	}
	f.waitFor("UNWATCH /a w1")
}

func TestWaitUntil_honoursContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newFake(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err := s.WaitUntil(ctx, func(r Reader) (bool, error) {
			_, err := r.List(ctx, "/")
			return false, err
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// Conditions that nothing would ever wake are errors, not hangs.
func TestWaitUntil_neverHangs(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	err := s.WaitUntil(ctx, func(Reader) (bool, error) { return false, nil })
	if err == nil || !strings.Contains(err.Error(), "reads nothing") {
		t.Errorf("got %v", err)
	}
	err = s.WaitUntil(ctx, func(r Reader) (bool, error) {
		_, _ = r.Read(ctx, "/a.b")
		return false, nil
	})
	if !errors.Is(err, syscall.EINVAL) {
		t.Errorf("got %v", err)
	}
	f.mu.Lock()
	f.hook = func(m wire.Message) bool {
		if m.Type == wire.Watch {
			f.refuse(m, "ENOSPC")
		}
		return m.Type == wire.Watch
	}
	f.mu.Unlock()
	err = s.WaitUntil(ctx, func(r Reader) (bool, error) {
		_, _ = r.Perms(ctx, "/a")
		return false, nil
	})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	var kept Reader
	ok(t, s.WaitUntil(ctx, func(r Reader) (bool, error) { kept = r; return true, nil }))
	if _, err := kept.Read(ctx, "/a"); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

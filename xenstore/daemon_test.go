package xenstore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/storeserver"
)

// These tests run against the embedded daemon, or against the one whose socket
// XENCHAN_TEST_STORE names. Each works in a tree of its own.

// daemon returns a function that opens connections to one daemon, and an empty tree.
func daemon(t *testing.T) (open func() *xenstore.Store, tree string) {
	path := os.Getenv("XENCHAN_TEST_STORE")
	if path == "" {
		path = t.TempDir() + "/socket"
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		server := storeserver.New(storeserver.Config{})
		served := make(chan error)
		go func() { served <- server.Serve(l) }()
		t.Cleanup(func() { _ = server.Close(); <-served })
	}
	open = func() *xenstore.Store {
		s, err := xenstore.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	tree = "/" + t.Name()
	s := open()
	if err := errors.Join(s.Remove(t.Context(), tree), s.Mkdir(t.Context(), tree)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the connections and the context of the test are still there
		if err := s.Remove(context.Background(), tree); err != nil {
			t.Error(err)
		}
	})
	return open, tree
}

// No increment is lost when many do read-modify-write at a time.
func TestDaemon_counter(t *testing.T) {
	open, tree := daemon(t)
	ctx := t.Context()
	const stores, workers, rounds = 3, 2, 10
	var wg sync.WaitGroup
	for range stores {
		s := open()
		for range workers {
			wg.Go(func() {
				for range rounds {
					if err := s.Tx(ctx, func(tx *xenstore.Tx) error { return increment(ctx, tx, tree+"/n") }); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	// Meanwhile somebody waits for the outcome.
	want := strconv.Itoa(stores * workers * rounds)
	err := open().WaitUntil(ctx, func(r xenstore.Reader) (bool, error) {
		n, err := r.Read(ctx, tree+"/n")
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return n == want, err
	})
	if err != nil {
		t.Error(err)
	}
	wg.Wait()
}

func increment(ctx context.Context, rw xenstore.ReadWriter, path string) error {
	value, err := rw.Read(ctx, path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	n, _ := strconv.Atoi("0" + value)
	return rw.Write(ctx, path, strconv.Itoa(n+1))
}

// What a transaction that failed has written is not there.
func TestDaemon_abort(t *testing.T) {
	open, tree := daemon(t)
	ctx, s := t.Context(), open()
	mine := errors.New("mine")
	err := s.Tx(ctx, func(tx *xenstore.Tx) error {
		if err := tx.Write(ctx, tree+"/a", "1"); err != nil {
			return err
		}
		return mine
	})
	if err != mine {
		t.Errorf("got %v", err)
	}
	if there, err := s.Exists(ctx, tree+"/a"); there || err != nil {
		t.Errorf("got %v, %v", there, err)
	}
}

// A directory far beyond one reply.
func TestDaemon_largeDirectory(t *testing.T) {
	open, tree := daemon(t)
	ctx, s := t.Context(), open()
	var want []string
	var wg sync.WaitGroup
	for i := range 700 {
		name := fmt.Sprintf("a-rather-long-name-%03d", i)
		want = append(want, name)
		wg.Go(func() {
			if err := s.Write(ctx, tree+"/"+name, ""); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	check := func(r xenstore.Reader) error {
		got, err := r.List(ctx, tree)
		slices.Sort(got)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("got %d names", len(got))
		}
		return err
	}
	if err := errors.Join(check(s), s.Tx(ctx, func(tx *xenstore.Tx) error { return check(tx) })); err != nil {
		t.Error(err)
	}
}

func TestDaemon_watch(t *testing.T) {
	open, tree := daemon(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, other := open(), open()
	w, err := s.Watch(ctx, tree+"/a")
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want ...string) {
		t.Helper()
		if got, err := w.Next(ctx); err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	expect(tree + "/a")
	for _, path := range []string{tree + "/b", tree + "/a/x"} {
		if err := other.Write(ctx, path, ""); err != nil {
			t.Fatal(err)
		}
	}
	expect(tree + "/a/x")
	if err := other.Remove(ctx, tree+"/a"); err != nil {
		t.Fatal(err)
	}
	expect(tree + "/a")
	w.Close()
	special, err := s.Watch(ctx, "@releaseDomain")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := special.Next(ctx); err != nil || !slices.Equal(got, []string{"@releaseDomain"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

package sys

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func FuzzInotifyWatches(f *testing.F) {
	event := func(wd int32, name string) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(wd))
		b = append(b, make([]byte, 8)...)
		b = binary.NativeEndian.AppendUint32(b, uint32(len(name)))
		return append(b, name...)
	}
	f.Add([]byte{})
	f.Add(event(1, ""))
	f.Add(append(event(7, "name\x00"), event(Overflow, "")...))
	f.Add(event(3, "cut")[:18])
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(inotifyWatches(b)); n > len(b)/16 {
			t.Errorf("%d events in %d bytes", n, len(b))
		}
		whole := append(event(42, "x"), b...)
		if got := inotifyWatches(whole); got[0] != 42 || !slices.Equal(got[1:], inotifyWatches(b)) {
			t.Errorf("%v after an event of 42", got)
		}
	})
}

func TestInotify_reportsOpens(t *testing.T) {
	in, err := NewInotify()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	ep, err := NewEpoll()
	if err != nil {
		t.Fatal(err)
	}
	if err := ep.AddInput(in.Conn(), 9); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wd, err := in.AddOpen(path)
	if err != nil {
		t.Fatal(err)
	}
	if wds, err := in.Take(); len(wds) > 0 || err != nil {
		t.Errorf("before an open: %v, %v", wds, err)
	}
	if _, err := os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	ids := make([]int32, 4)
	if n, err := ep.Wait(ids); n != 1 || ids[0] != 9 || err != nil {
		t.Errorf("Wait: %d, %v, %v", n, ids, err)
	}
	if wds, err := in.Take(); !slices.Equal(wds, []int32{wd}) || err != nil {
		t.Errorf("Take: %v, %v", wds, err)
	}
	if err := in.Remove(wd); err != nil {
		t.Error(err)
	}
	if err := in.Remove(wd); err != nil {
		t.Errorf("Remove again: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = ep.Close() })
	if _, err := in.Take(); err != nil { // the end of the watch
		t.Error(err)
	}
	if _, err := ep.Wait(ids); err == nil {
		t.Error("Wait after Close")
	}
}

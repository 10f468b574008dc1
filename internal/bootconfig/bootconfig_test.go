package bootconfig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/agent/mdata"
	"github.com/xenchan/xenchan/toolstack"
)

var web = toolstack.Domain{ID: 7, Name: "web", UUID: "2f1a7a38-3c54-4b5c-a6d1-6f4f9a1f0a6e"}

// session is one with an offer, and the events of it.
func session(t *testing.T, o *Offer, r Receipts) (*Session, *[]Event) {
	t.Helper()
	var events []Event
	s, err := NewSession(t.Context(), web, o, r, func(e Event) error {
		events = append(events, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, &events
}

func get(t *testing.T, s *Session, key string) string {
	t.Helper()
	value, found, err := s.Get(key, true)
	if err != nil || !found {
		t.Errorf("Get(%s): %v, %v", key, found, err)
	}
	return string(value)
}

func TestOffer_metaData(t *testing.T) {
	for _, c := range []struct {
		text, meta, id, name, keys, wrong string
	}{
		{text: "", id: web.UUID, name: "web", meta: `{"instance-id":"` + web.UUID + `","local-hostname":"web"}`},
		{text: "# only this\n", id: web.UUID, name: "web"},
		{text: "instance-id: i-1\nlocal-hostname: a.example\n", id: "i-1", name: "a.example"},
		{text: `{"instance-id": "i-2", "more": [1, {"a": null}]}`, id: "i-2", name: "web", meta: `{"instance-id":"i-2","local-hostname":"web","more":[1,{"a":null}]}`},
		{text: "public-keys: ssh-rsa A\n", keys: "ssh-rsa A"},
		{text: "public-keys: [ ssh-rsa A, ssh-rsa B ]\n", keys: "ssh-rsa A\nssh-rsa B"},
		{text: "public-keys: { b: ssh-rsa B, a: [ ssh-rsa A, ssh-rsa C ] }\n", keys: "ssh-rsa A\nssh-rsa C\nssh-rsa B"},
		{text: "instance-id: null\n", id: web.UUID},
		{text: "instance-id: ' '\n", wrong: "instance-id is empty"},
		{text: "instance-id: 17\n", wrong: "instance-id is 17, and must be a text"},
		{text: "local-hostname: [a]\n", wrong: "local-hostname is [a], and must be a text"},
		{text: "- a\n", wrong: "list of KEY: VALUE"},
		{text: "a: [\n", wrong: "list of KEY: VALUE"},
		{text: "a: {1: b}\n", wrong: "meta-data: json"},
		{text: "a: &a [*a]\n", wrong: "KEY: VALUE"},
	} {
		o := NewOffer()
		err := o.SetMetaData([]byte(c.text))
		if err == nil {
			_, err = o.For(web)
		}
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%q: %v, want %q", c.text, err, c.wrong)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		s, _ := session(t, o, Receipts{})
		for key, want := range map[string]string{KeyMetaData: c.meta, keyUUID: c.id, keyHostname: c.name, keyAuthorized: c.keys} {
			if want != "" && get(t, s, key) != want {
				t.Errorf("%q: %s is %q, want %q", c.text, key, get(t, s, key), want)
			}
		}
		if get(t, s, keyName) != "web" {
			t.Errorf("sdc:hostname is not the domain's name")
		}
	}
}

func TestOffer_refuses(t *testing.T) {
	o := NewOffer()
	if err := o.SetUserData([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		o.Set("", nil), o.Set("a b", nil), o.Set("user-data", nil), o.SetSecret(KeyUserData, []byte("x")),
		o.SetSecret("empty", nil), o.Set(mdata.ReadyKey, nil), o.Set("large", make([]byte, mdata.MaxValue+1)),
	} {
		if err == nil {
			t.Error("an offer that makes no sense is made")
		}
	}
	if err := o.Set("large", make([]byte, mdata.MaxValue)); err != nil {
		t.Error(err)
	}
}

// A key that is given by its own name stands in for what is made up.
func TestOffer_overrides(t *testing.T) {
	o := NewOffer()
	if err := o.Set(keyUUID, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	s, _ := session(t, o, Receipts{})
	if get(t, s, keyUUID) != "mine" {
		t.Error("the uuid is made up")
	}
}

func TestSession(t *testing.T) {
	o := NewOffer()
	if err := errors.Join(o.SetUserData([]byte("#!/bin/sh")), o.SetSecret("pw", []byte("s3cret"))); err != nil {
		t.Fatal(err)
	}
	r := Receipts{Dir: filepath.Join(t.TempDir(), "receipts")}
	s, events := session(t, o, r)
	want := []string{KeyUserData, keyHostname, KeyMetaData, "pw", keyUserDataOld}
	if keys := s.Keys(); !slices.Equal(slices.Sorted(slices.Values(keys)), want) {
		t.Errorf("Keys are %q", keys)
	}
	get(t, s, KeyUserData)
	get(t, s, KeyUserData)
	if _, found, err := s.Get("pw", false); found || !errors.Is(err, mdata.ErrIgnore) {
		t.Errorf("a question that has waited: %v, %v", found, err)
	}
	if get(t, s, "pw") != "s3cret" {
		t.Error("the secret is another")
	}
	again, _ := session(t, o, r) // as after a restart
	for _, s := range []*Session{s, again} {
		if value, found, err := s.Get("pw", true); found || err != nil || value != nil {
			t.Errorf("the secret is given again: %q, %v", value, err)
		}
	}
	if err := s.Put("else", nil); err == nil {
		t.Error("a guest can store values")
	}
	if err := s.Delete(KeyUserData); err == nil {
		t.Error("a guest can delete values")
	}
	for value, text := range map[string]string{
		"ok\n": Ready, "failed: no disk": "no disk", "": "the guest gives no reason",
		"a\x1b[2J\nxenchan: forged\xff": "a [2J xenchan: forged?", strings.Repeat("é", maxReason): strings.Repeat("é", maxReason/2),
	} {
		*events = nil
		kind := EventFailed
		if text == Ready {
			kind = EventConfigured
		}
		err := s.Put(mdata.ReadyKey, []byte(value))
		if diff := cmp.Diff([]Event{{Kind: kind, Text: text}}, *events); diff != "" || err != nil {
			t.Errorf("%q: %v %s", value, err, diff)
		}
	}
}

func TestSession_events(t *testing.T) {
	o := NewOffer()
	if err := errors.Join(o.Set("a", []byte("12345")), o.SetSecret("pw", []byte("s3cret"))); err != nil {
		t.Fatal(err)
	}
	s, events := session(t, o, Receipts{Dir: t.TempDir()})
	for range 1000 { // a guest that floods
		s.Get("a", true)
		s.Get("pw", true)
		s.Get("nosuch", true)
	}
	if diff := cmp.Diff([]Event{{Kind: EventGiven, Key: "a", Bytes: 5}, {Kind: EventSecret, Key: "pw", Bytes: 6}}, *events); diff != "" {
		t.Error(diff)
	}
}

// Without a receipt on the disk no secret is given, and the guest learns nothing of the
// host.
func TestSession_noReceipt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := NewOffer()
	if err := o.SetSecret("pw", []byte("s3cret")); err != nil {
		t.Fatal(err)
	}
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, web.UUID+".json"), []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, damaged} {
		s, events := session(t, o, Receipts{Dir: dir})
		value, found, err := s.Get("pw", true)
		if found || value != nil || !errors.Is(err, errHost) {
			t.Errorf("%s: %q, %v, %v", dir, value, found, err)
		}
		if len(*events) != 1 || (*events)[0].Kind != EventProblem {
			t.Errorf("%s: %+v", dir, *events)
		}
	}
}

func TestReceipts(t *testing.T) {
	r, ctx := Receipts{Dir: filepath.Join(t.TempDir(), "a/b")}, t.Context()
	if all, err := r.List(web); all != nil || err != nil {
		t.Errorf("List of nothing: %v, %v", all, err)
	}
	var first atomic.Int64
	var wg sync.WaitGroup
	for i := range 40 { // whoever comes first, of several processes, is the only one
		wg.Go(func() {
			ok, err := r.Take(ctx, web, fmt.Sprint("key", i%4))
			if err != nil {
				t.Error(err)
			}
			if ok {
				first.Add(1)
			}
		})
	}
	wg.Wait()
	all, err := r.List(web)
	if err != nil || len(all) != 4 || first.Load() != 4 {
		t.Errorf("%d receipts, and %d were the first, %v", len(all), first.Load(), err)
	}
	if found, err := r.Forget(ctx, web, "key1"); !found || err != nil {
		t.Errorf("Forget: %v, %v", found, err)
	}
	if found, err := r.Forget(ctx, web, "key1"); found || err != nil {
		t.Errorf("Forget again: %v, %v", found, err)
	}
	if ok, err := r.Take(ctx, web, "key1"); !ok || err != nil {
		t.Errorf("Take after Forget: %v, %v", ok, err)
	}
	other := web
	other.UUID = strings.Replace(web.UUID, "2f", "3f", 1)
	if ok, err := r.Take(ctx, other, "key1"); !ok || err != nil {
		t.Errorf("Take of another domain: %v, %v", ok, err)
	}
	path := filepath.Join(r.Dir, web.UUID+".json")
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	text, err := os.ReadFile(path)
	if err != nil || !json.Valid(text) || strings.Contains(string(text), "s3cret") {
		t.Errorf("%s, %v", text, err)
	}
	for _, uuid := range []string{"", "../../../etc/passwd", web.UUID + "/x", "../" + web.UUID} {
		bad := web
		bad.UUID = uuid
		if ok, err := r.Take(ctx, bad, "key"); ok || err == nil {
			t.Errorf("a domain with the uuid %q has receipts", uuid)
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	lock, err := r.lock(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if ok, err := r.Take(ended, web, "new"); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("Take beside another: %v, %v", ok, err)
	}
}

package xenstore

import (
	"context"
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// All requests are on their way before the first answer.
func TestPipeline_doesNotWait(t *testing.T) {
	s, p := newPeer(t, false)
	done := make(chan error, 1)
	go func() {
		done <- s.Tx(t.Context(), func(tx *Tx) error {
			all := tx.Pipeline()
			all.Remove("/a")
			all.Mkdir("/a")
			all.SetPerms("/a", wire.Perms{{Access: wire.AccessNone, DomID: 3}})
			all.Write("/a/b", "c")
			return all.Wait(t.Context())
		})
	}()
	p.reply(p.want(wire.TransactionStart), "7\x00")
	var sent []wire.Message
	for _, typ := range []wire.Type{wire.Rm, wire.Mkdir, wire.SetPerms, wire.Write} {
		m := p.want(typ)
		equal(t, m.TxID, uint32(7))
		sent = append(sent, m)
	}
	equal(t, string(sent[2].Payload), "/a\x00n3\x00")
	equal(t, string(sent[3].Payload), "/a/b\x00c")
	p.refuse(sent[0], "ENOENT") // as the C daemon does for what is not there
	for _, m := range sent[1:] {
		p.reply(m, "OK\x00")
	}
	p.reply(p.want(wire.TransactionEnd), "OK\x00")
	ok(t, <-done)
}

// The first error is the result, and the transaction is given up.
func TestPipeline_fails(t *testing.T) {
	for name, c := range map[string]struct {
		ask  func(*Pipeline)
		want error
	}{
		"refused":     {func(p *Pipeline) { p.Write("/a", ""); p.Write("/locked", ""); p.Write("/b", "") }, syscall.EACCES},
		"no path":     {func(p *Pipeline) { p.Write("/a", ""); p.Mkdir("a//b"); p.Write("/b", "") }, syscall.EINVAL},
		"too long":    {func(p *Pipeline) { p.Write("/a", string(make([]byte, 5000))) }, syscall.E2BIG},
		"no children": {func(p *Pipeline) { p.SetPerms("/none", wire.Perms{{Access: wire.AccessNone}}) }, fs.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			s, f := newFake(t, nil)
			f.hook = func(m wire.Message) bool {
				if m.Type == wire.Write && string(m.Payload) == "/locked\x00" {
					f.refuse(m, "EACCES")
					return true
				}
				if m.Type == wire.SetPerms {
					f.refuse(m, "ENOENT")
					return true
				}
				return false
			}
			err := s.Tx(t.Context(), func(tx *Tx) error {
				p := tx.Pipeline()
				c.ask(p)
				return p.Wait(t.Context())
			})
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			f.waitFor("TRANSACTION_END F")
		})
	}
}

func TestPipeline_contextEnds(t *testing.T) {
	s, p := newPeer(t, false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.Tx(ctx, func(tx *Tx) error {
			all := tx.Pipeline()
			all.Write("/a", "")
			cancel()
			return all.Wait(ctx)
		})
	}()
	p.reply(p.want(wire.TransactionStart), "7\x00")
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

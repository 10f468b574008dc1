package xenstore

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xenchan/xenchan/xenstore/wire"
)

func TestTx_commits(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, map[string]string{"/a": "1"})
	var ids []uint32
	f.hook = func(m wire.Message) bool { ids = append(ids, m.TxID); return false }
	ok(t, s.Tx(ctx, func(tx *Tx) error {
		value, err := tx.Read(ctx, "/a")
		if err != nil {
			return err
		}
		return tx.Write(ctx, "/b", value)
	}))
	equal(t, must(s.Read(ctx, "/b"))(t), "1")
	equal(t, f.requests()[:4], []string{"TRANSACTION_START", "READ /a", "WRITE /b 1", "TRANSACTION_END T"})
	equal(t, ids, []uint32{0, 1, 1, 1, 0})
}

func TestTx_retriesOnConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s, f := newFake(t, nil)
		f.mu.Lock()
		f.conflicts = 40
		f.mu.Unlock()
		seen := map[uint32]bool{}
		start := time.Now()
		ok(t, s.Tx(ctx, func(tx *Tx) error {
			seen[tx.tx.id] = true
			return tx.Write(ctx, "/a", "")
		}))
		equal(t, len(seen), 41) // a new transaction each time
		if d := time.Since(start); d == 0 || d > 40*txPauseMax {
			t.Errorf("41 attempts took %v", d)
		}
		f.mu.Lock()
		equal(t, len(f.tx), 0)
		f.mu.Unlock()
	})
}

func TestTx_contextEndsRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := newFake(t, nil)
		f.mu.Lock()
		f.conflicts = 1 << 30
		f.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := s.Tx(ctx, func(tx *Tx) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		ok(t, s.Write(t.Context(), "/a", ""))
	})
}

func TestTx_abortsOnError(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	mine := errors.New("mine")
	if err := s.Tx(ctx, func(tx *Tx) error { return mine }); err != mine {
		t.Errorf("got %v", err)
	}
	f.waitFor("TRANSACTION_END F")
	// Only a conflict at the commit is a reason to try again.
	runs := 0
	err := s.Tx(ctx, func(tx *Tx) error { runs++; return syscall.EAGAIN })
	if err != syscall.EAGAIN || runs != 1 {
		t.Errorf("%d runs gave %v", runs, err)
	}
}

func TestTx_abortsOnPanic(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	func() {
		defer func() { equal(t, recover(), any("oops")) }()
		_ = s.Tx(ctx, func(*Tx) error { panic("oops") })
	}()
	f.waitFor("TRANSACTION_END F")
}

func TestTx_abortsWhenContextEnds(t *testing.T) {
	s, f := newFake(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Tx(ctx, func(tx *Tx) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	f.waitFor("TRANSACTION_END F")
	equal(t, slices.Contains(f.requests(), "TRANSACTION_END T"), false)
}

// A transaction that begins after its owner has gone must not stay open.
func TestTx_endsLateStart(t *testing.T) {
	s, p := newPeer(t, false)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() { errs <- s.Tx(ctx, func(*Tx) error { t.Error("was run"); return nil }) }()
	start := p.want(wire.TransactionStart)
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	p.reply(start, "9\x00")
	end := p.want(wire.TransactionEnd)
	equal(t, end.TxID, uint32(9))
	equal(t, string(end.Payload), "F\x00")
}

func TestTx_otherFailuresOfCommit(t *testing.T) {
	s, f := newFake(t, nil)
	f.hook = func(m wire.Message) bool {
		if m.Type != wire.TransactionEnd {
			return false
		}
		f.refuse(m, "ENOMEM")
		return true
	}
	err := s.Tx(t.Context(), func(tx *Tx) error { return nil })
	if !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("got %v", err)
	}
	equal(t, err.Error(), "xenstore: transaction end: cannot allocate memory")
	equal(t, f.requests(), []string{"TRANSACTION_START", "TRANSACTION_END T"})
}

func TestTx_uselessAfterwards(t *testing.T) {
	ctx := t.Context()
	s, f := newFake(t, nil)
	var kept *Tx
	ok(t, s.Tx(ctx, func(tx *Tx) error { kept = tx; return nil }))
	if err := kept.Write(ctx, "/a", ""); !errors.Is(err, errTxOver) {
		t.Errorf("got %v", err)
	}
	equal(t, f.requests(), []string{"TRANSACTION_START", "TRANSACTION_END T"})
}

package xenstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// Tx is a transaction in the hands of the function that was given to [Store.Tx].
// It is of no use after that function has returned.
type Tx struct {
	nodes
}

type txState struct {
	id   uint32
	over atomic.Bool
}

var errTxOver = errors.New("the transaction is over")

// Bounds of the pause before a transaction is tried again: the first is at most
// txPauseMin, and they double up to txPauseMax. Pauses are random, so that two
// who are in each other's way do not stay so.
const (
	txPauseMin = time.Millisecond
	txPauseMax = 64 * time.Millisecond
)

// Tx runs f in a transaction. What f reads does not change under it, and what it
// writes takes effect at once and only if f returns nil; else the error of f is
// returned as it is. When somebody else has changed what f has read, all of it
// is done again in a new transaction, as often as it takes or until ctx ends: so
// f must have no other effects that may not happen twice, and must read anew in
// each run. If ctx ends during the commit, it is not known which way that went.
func (s *Store) Tx(ctx context.Context, f func(*Tx) error) error {
	for limit := txPauseMin; ; limit = min(2*limit, txPauseMax) {
		conflict, err := s.tryTx(ctx, f)
		if !conflict {
			return err
		}
		if err := pause(ctx, limit); err != nil {
			return opError(wire.TransactionEnd, "", err)
		}
	}
}

// pause waits for a random time below limit, or fails when ctx ends.
func pause(ctx context.Context, limit time.Duration) error {
	timer := time.NewTimer(rand.N(limit))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tryTx runs f in one transaction and reports whether the daemon refused it
// because of a conflict.
func (s *Store) tryTx(ctx context.Context, f func(*Tx) error) (conflict bool, err error) {
	payload, err := s.call(ctx, wire.TransactionStart, "", wire.JoinNUL(""))
	if err != nil {
		return false, err
	}
	id, err := parseTxID(payload)
	if err != nil {
		return false, malformed(wire.TransactionStart, "", payload)
	}
	state := &txState{id: id}
	ended := false // the daemon has ended the transaction
	defer func() { // deferred, so that it also happens when f panics
		state.over.Store(true)
		if !ended {
			s.c.post(wire.TransactionEnd, id, wire.JoinNUL("F"))
		}
	}()
	if err := f(&Tx{nodes{c: s.c, tx: state}}); err != nil {
		return false, err
	}
	state.over.Store(true)
	_, err = s.c.call(ctx, wire.TransactionEnd, id, "", wire.JoinNUL("T"))
	refused, ok := errors.AsType[*Error](err)
	ended = err == nil || ok
	return ok && refused.Errno == syscall.EAGAIN, err
}

// parseTxID reads the reply to TRANSACTION_START.
func parseTxID(payload []byte) (uint32, error) {
	parts, ok := wire.SplitNUL(payload)
	if !ok || len(parts) != 1 {
		return 0, fmt.Errorf("malformed transaction id %q", payload)
	}
	id, err := strconv.ParseUint(parts[0], 10, 32)
	if err == nil && id == 0 {
		err = errors.New("transaction id 0 means none")
	}
	return uint32(id), err
}

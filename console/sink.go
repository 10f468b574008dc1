package console

import (
	"github.com/xenchan/xenchan/ring"
	"github.com/xenchan/xenchan/spool"
	"github.com/xenchan/xenchan/xen"
)

// Sink takes the bytes that the other half sends. It may outlive the process,
// which can die between taking bytes and letting them go from the ring: so the
// sink keeps, together with the bytes, where in which ring they were. A
// [spool.Log] is a Sink.
type Sink interface {
	// Attach names the ring that bytes come from now, the index of the first
	// byte in it and how many there are. It returns how many of these the sink
	// has already.
	Attach(id spool.RingID, at uint32, held int) (skip int)
	// Append takes bytes, the first of which has this index. It must not block;
	// when it takes fewer than it was given, the rest is offered again after a
	// value from Room.
	Append(p []byte, at uint32) int
	// Settle says that what Attach or Append returned has left the ring.
	Settle()
	// Flush says that no more is to be taken for now, and the guest knows what was:
	// the bytes may go on. It must not block, and may be called by several at once.
	Flush()
	Room() <-chan struct{}
}

var _ Sink = (*spool.Log)(nil)

// Source gives the bytes for the other half, and may outlive the process as a Sink
// may: so it keeps where in which ring they go. A [spool.Inbox] is a Source.
type Source interface {
	// Attach names the ring that bytes go to now, and the index of the next one.
	// What an earlier process has put there since the last Advance is not given again.
	Attach(id spool.RingID, at uint32)
	// Next is what the ring gets next. The bytes stay as they are until Advance.
	Next() []byte
	// Advance says that the ring has the first n bytes of Next.
	Advance(n int)
}

var _ Source = (*spool.Inbox)(nil)

// resume goes on where a process stopped that died after the sink had bytes and
// before the ring showed it.
func resume(rx *ring.Consumer, event xen.EventChannel, sink Sink, id spool.RingID) error {
	held, err := rx.Len()
	if err != nil {
		return err
	}
	skip := sink.Attach(id, rx.Index(), held)
	if skip > 0 {
		rx.Consume(skip)
		err = event.Notify()
	}
	sink.Settle()
	return err
}

// goOn does the same for the other direction. The other half may not have been told
// of the last bytes in its ring.
func goOn(tx *ring.Producer, event xen.EventChannel, from Source, id spool.RingID) error {
	from.Attach(id, tx.Index())
	free, err := tx.Free()
	if err == nil && free < tx.Size() {
		err = event.Notify()
	}
	return err
}

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
	Room() <-chan struct{}
}

var _ Sink = (*spool.Log)(nil)

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

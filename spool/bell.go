package spool

import "sync/atomic"

// bell is a channel of capacity 1 that is made when somebody needs it: most logs lie
// still most of the time. The zero value is ready.
type bell struct{ made atomic.Pointer[chan struct{}] }

func (b *bell) c() chan struct{} {
	if c := b.made.Load(); c != nil {
		return *c
	}
	c := make(chan struct{}, 1)
	if b.made.CompareAndSwap(nil, &c) {
		return c
	}
	return *b.made.Load()
}

// ring leaves a value in the channel, unless there is one.
func (b *bell) ring() {
	select {
	case b.c() <- struct{}{}:
	default:
	}
}

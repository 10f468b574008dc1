package console

// Stats is what has passed through a Conn.
type Stats struct {
	Received, Sent int64 // bytes
	// PeerReads says that the other half has read all that was sent, and that
	// something was: somebody there is reading.
	PeerReads bool
}

// Stats may be called at any time.
func (c *Conn) Stats() Stats {
	s := Stats{Received: c.received.Load(), Sent: c.written.Load()}
	c.txMu.Lock()
	defer c.txMu.Unlock()
	if c.sent && !c.closed {
		free, err := c.tx.Free()
		s.PeerReads = err == nil && free == c.tx.Size()
	}
	return s
}

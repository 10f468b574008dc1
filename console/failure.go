package console

// whenFailed has f called once the Conn has failed, if that is so already by the caller.
// It must not block, nor call the Conn.
func (c *Conn) whenFailed(f func()) {
	c.onFail.Store(&f)
	if done(c.failed) {
		f()
	}
}

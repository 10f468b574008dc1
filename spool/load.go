package spool

import "fmt"

// Load says that the first n bytes of the last Peek are in the pipe to the client,
// which was empty before.
func (l *Log) Load(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n < 0 || uint64(n) > l.s.inFlight || l.s.loaded > 0 {
		panic(fmt.Sprintf("spool: %d bytes loaded of the %d that were shown, after %d", n, l.s.inFlight, l.s.loaded))
	}
	l.s.loaded = uint64(n)
	l.commit()
}

// Loaded is how many bytes are in the pipe.
func (l *Log) Loaded() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.s.loaded)
}

// Reload says how many bytes are in a pipe that has survived the last process. The
// others that were loaded have reached the client.
func (l *Log) Reload(piped int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch n := uint64(piped); {
	case n <= l.s.loaded:
		l.advance(l.s.loaded - n)
	case l.s.loaded == 0 && n <= l.s.inFlight: // it ended between the two
		l.s.loaded = n
	default:
		return fmt.Errorf("%w: %d bytes in a pipe that was loaded with %d of %d", ErrUnusable, n, l.s.loaded, l.s.inFlight)
	}
	l.commit()
	return nil
}

// Unload says that the pipe has not survived: its bytes are loaded again, whether
// or not they have reached a client.
func (l *Log) Unload() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.s.loaded = 0
	l.commit()
}

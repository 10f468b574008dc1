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
	l.s.loaded, l.s.stale = uint64(n), false
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
	case l.s.stale && n > 0:
		return fmt.Errorf("%w: %d bytes in a pipe that were returned", ErrUnusable, n)
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
	l.s.loaded, l.s.stale, l.s.unread = 0, false, 0
	l.commit()
}

// Crowded says that Peek would need less memory if it were known, by Unread, what the
// client has read.
func (l *Log) Crowded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.s.unread > 0 && l.s.inFlight == 0 && l.s.count > 0 && l.s.flight+l.s.count > minBuffer
}

// Unread says that of all bytes that the client was given it has read all but the
// last n, or more.
func (l *Log) Unread(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if uint64(n) < l.s.unread {
		l.s.unread = uint64(n)
		l.commit()
	}
}

// Return says that the client has left and not read all that it was given: what it may
// not have read comes again, for the next one. It is for the reader, and says how much
// that is; if it is more than nothing, what was loaded is for the reader to take
// out of the pipe then. A pipe that still has it in the next process is refused by Reload.
func (l *Log) Return() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.s.unread
	if n == 0 {
		return 0
	}
	l.s.flight = (l.s.flight + flightSize - n) % flightSize
	l.s.inFlight += n
	l.s.delivered -= n
	l.s.stale = l.s.loaded > 0
	l.s.loaded, l.s.unread = 0, 0
	l.commit()
	return int(n)
}

// Skip gives up all that is in the log, for a reader that begins from now, and says
// how many bytes that were. unread of those that Advance has counted are given up
// with them: a terminal had them, and nobody has read them there. It is for the
// reader; what was loaded is for it to take out of the pipe then. A pipe that still
// has it in the next process is refused by Reload, so that nothing of it is delivered.
func (l *Log) Skip(unread int) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	back := min(uint64(max(0, unread)), l.s.delivered)
	n := l.s.count + l.s.inFlight + back
	if n == 0 && l.s.unread == 0 {
		return 0
	}
	l.s.delivered -= back
	l.s.skipped += n
	l.s.count, l.s.flight, l.s.inFlight, l.s.loaded, l.s.unread = 0, 0, 0, 0, 0
	l.emptied()
	l.room.ring()
	return int64(n)
}

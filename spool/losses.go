package spool

// Loss is a stretch of bytes that were dropped: Bytes of those at the positions
// from From up to To, which are all of them unless stretches were joined because
// nobody asked for them.
type Loss struct{ Bytes, From, To int64 }

// maxLosses is how many stretches a log remembers before it joins or forgets some.
const maxLosses = 16

// history is the latest losses, in the region: a process that goes on with the log
// knows where they were. They are stored after the state that counts them, so that a
// process which is killed in between leaves one that is counted and not there; Open
// knows where that was.
type history struct {
	cell   cell
	latest []Loss
	told   uint64 // bytes of all losses that were ever in latest
	dirty  bool   // latest is not stored
}

func newHistory(region []byte) history {
	return history{cell: cell{region: region, at: offLosses, size: lossesSlot}}
}

func (h *history) add(l Loss) {
	h.dirty = true
	h.told += uint64(l.Bytes)
	if last := len(h.latest) - 1; last >= 0 && h.latest[last].To == l.From {
		h.latest[last].Bytes += l.Bytes
		h.latest[last].To = l.To
		return
	}
	h.latest = append(h.latest, l)
	h.latest = h.latest[max(0, len(h.latest)-maxLosses):]
}

// keepLosses stores what has been lost since it was called last.
func (l *Log) keepLosses() {
	h := &l.history
	if !h.dirty {
		return
	}
	h.dirty = false
	b := h.cell.next()
	put(b, 0, h.told)
	put(b, 8, uint64(len(h.latest)))
	for i, x := range h.latest {
		put(b, 16+24*i, uint64(x.Bytes))
		put(b, 24+24*i, uint64(x.From))
		put(b, 32+24*i, uint64(x.To))
	}
	l.wrote()
	h.cell.commit()
	l.wrote()
}

// openLosses loads the history for the state in l.s, which counts at least as much. What
// makes no sense is forgotten: it is no reason to give up the bytes.
func (l *Log) openLosses() {
	h := &l.history
	h.cell.load()
	b := h.cell.slot()
	h.told = get(b, 0)
	sum, at, n := uint64(0), int64(0), get(b, 8)
	ok := h.cell.seq > 0 && n <= maxLosses && h.told <= l.s.dropped
	for i := 0; ok && i < int(n); i++ {
		x := Loss{Bytes: int64(get(b, 16+24*i)), From: int64(get(b, 24+24*i)), To: int64(get(b, 32+24*i))}
		ok = x.Bytes > 0 && x.From >= at && x.To > x.From && x.To <= int64(l.s.end) && x.Bytes <= x.To-x.From
		h.latest = append(h.latest, x)
		at = x.To
		sum += uint64(x.Bytes)
	}
	behind := int64(l.s.end - l.s.count) // what is dropped is the oldest in the circle
	if !ok || sum > h.told {
		h.latest, h.told = nil, l.s.dropped
		if l.s.dropped > 0 {
			h.latest = []Loss{{Bytes: int64(l.s.dropped), From: 0, To: behind}}
		}
		h.dirty = true
	} else if missing := int64(l.s.dropped - h.told); missing > 0 {
		h.add(Loss{Bytes: missing, From: behind - missing, To: behind})
	}
	l.keepLosses()
}

// lost remembers a stretch of n bytes for whoever asks.
func (l *Log) lost(from int64, n int) {
	if n == 0 {
		return
	}
	defer l.loss.ring()
	x := Loss{Bytes: int64(n), From: from, To: from + int64(n)}
	l.history.add(x)
	if last := len(l.losses) - 1; last >= 0 && (l.losses[last].To == from || last+1 == maxLosses) {
		l.losses[last].Bytes += x.Bytes
		l.losses[last].To = x.To
		return
	}
	l.losses = append(l.losses, x)
}

// Losses delivers a value after bytes were dropped; TakeLosses says which.
func (l *Log) Losses() <-chan struct{} { return l.loss.c() }

// TakeLosses returns what was dropped since the last call, by this process.
func (l *Log) TakeLosses() []Loss {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.losses
	l.losses = nil
	return taken
}

// LatestLosses is the latest stretches that were dropped since the log began, at most 16, by
// whichever process.
func (l *Log) LatestLosses() []Loss {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Loss{}, l.history.latest...)
}

package pty

import (
	"errors"
	"fmt"
	"sync"

	"github.com/xenchan/xenchan/internal/sys"
)

// presence tells every terminal of the process when to look who is there. It
// costs two descriptors and one goroutine while there are terminals: a user has
// only 128 inotify instances, so terminals cannot have one each.
var presence watcher

type watcher struct {
	mu    sync.Mutex
	ptys  map[int32]*Endpoint // by inotify watch descriptor; guarded by mu
	epoll *sys.Epoll          // hang-ups of the masters, and opened; nil without terminals; guarded by mu
	opens *sys.Inotify        // opens of the slaves; guarded by mu
	done  chan struct{}       // closed when the goroutine has ended; guarded by mu
}

// opensID is what epoll reports for the inotify instance; watch descriptors are positive.
const opensID = 0

// add begins to watch e, and starts the goroutine with the first terminal.
// remove is its counterpart.
func (w *watcher) add(e *Endpoint) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.epoll == nil {
		if err := w.start(); err != nil {
			return err
		}
	}
	wd, err := w.opens.AddOpen(e.path)
	if err != nil {
		return errors.Join(err, w.stopIfIdle())
	}
	e.watch = wd
	w.ptys[wd] = e
	// The hang-up is watched by the master itself, not with IN_CLOSE: that
	// event comes before the kernel has taken the file from the terminal.
	if err := w.epoll.AddHangup(e.rc, wd); err != nil {
		delete(w.ptys, wd)
		return errors.Join(err, w.opens.Remove(wd), w.stopIfIdle())
	}
	return nil
}

// remove ends the watch on e, whose master must still be open. With the last
// terminal it returns when the goroutine has ended.
func (w *watcher) remove(e *Endpoint) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ptys, e.watch)
	err := errors.Join(w.epoll.Remove(e.rc), w.opens.Remove(e.watch))
	return errors.Join(err, w.stopIfIdle())
}

// start is called with mu held.
func (w *watcher) start() error {
	opens, err := sys.NewInotify()
	if err != nil {
		return fmt.Errorf("%w (see fs.inotify.max_user_instances)", err)
	}
	epoll, err := sys.NewEpoll()
	if err == nil {
		err = epoll.AddInput(opens.Conn(), opensID)
	}
	if err != nil {
		if epoll != nil {
			_ = epoll.Close()
		}
		_ = opens.Close()
		return err
	}
	w.ptys, w.epoll, w.opens = make(map[int32]*Endpoint), epoll, opens
	w.done = make(chan struct{})
	go w.run(epoll, opens, w.done)
	return nil
}

// stopIfIdle is called with mu held, which it gives up while it waits for the
// goroutine.
func (w *watcher) stopIfIdle() error {
	if len(w.ptys) > 0 {
		return nil
	}
	epoll, opens, done := w.epoll, w.opens, w.done
	w.epoll, w.opens, w.done = nil, nil, nil
	err := epoll.Close()
	w.mu.Unlock()
	<-done
	w.mu.Lock()
	return errors.Join(err, opens.Close())
}

// run is the goroutine; stopIfIdle ends and joins it.
func (w *watcher) run(epoll *sys.Epoll, opens *sys.Inotify, done chan<- struct{}) {
	defer close(done)
	ids := make([]int32, 64)
	for {
		n, err := epoll.Wait(ids)
		if err != nil {
			return
		}
		for _, id := range ids[:n] {
			if id != opensID {
				w.look(id)
				continue
			}
			wds, err := opens.Take()
			if err != nil {
				return
			}
			for _, wd := range wds {
				w.look(wd)
			}
		}
	}
}

// look makes the terminal of a watch descriptor look, or all of them after
// events were lost. A descriptor may be that of a terminal that has just gone.
func (w *watcher) look(wd int32) {
	w.mu.Lock()
	var es []*Endpoint
	if e, ok := w.ptys[wd]; ok {
		es = append(es, e)
	} else if wd == sys.Overflow {
		for _, e := range w.ptys {
			es = append(es, e)
		}
	}
	w.mu.Unlock()
	for _, e := range es {
		e.look()
	}
}

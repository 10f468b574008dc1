package daemon

import (
	"io"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/spool"
)

// pipes are the last stage before a channel's clients, one each way: in between a
// client and the spool's inbox, out between the spool and a client. They are made
// for the first client and belong to the channel, whoever is its client: what one
// has left in out is for the next.
//
// The kernel counts what is in them, and the spool what was put there. So the next
// daemon, which has the same pipes, knows of every byte where it is.
type pipes struct {
	in, out *sys.Pipe
	log     *spool.Log
	keep    *keep
}

// openPipes takes over the pipes of an earlier daemon; their handles are nil if
// there are none.
func openPipes(log *spool.Log, in, out *sys.Handle, k *keep) *pipes {
	p := &pipes{log: log, keep: k}
	p.in = p.resume(keptIn, in, func(in *sys.Pipe, held int) error {
		rest, err := log.Inbox().Resume(held)
		if err == nil {
			err = p.fill(in, rest)
		}
		return err
	})
	if p.in == nil {
		log.Inbox().Restart()
	}
	p.out = p.resume(keptOut, out, func(_ *sys.Pipe, held int) error { return log.Reload(held) })
	if p.out == nil {
		log.Unload()
	}
	return p
}

// resume is a pipe of an earlier daemon, nil if there is none or it cannot be used.
func (p *pipes) resume(what string, h *sys.Handle, with func(pipe *sys.Pipe, held int) error) *sys.Pipe {
	if h == nil {
		return nil
	}
	pipe, err := sys.PipeOf(h)
	if err == nil {
		var held int
		if held, err = pipe.Len(); err == nil {
			err = with(pipe, held)
		}
		if err == nil {
			return pipe
		}
		_ = pipe.Close()
	}
	p.keep.log.Error("a pipe of an earlier daemon is of no use", "what", what, "error", err)
	p.keep.drop(what)
	return nil
}

// ensure makes the pipes that are not there yet.
func (p *pipes) ensure() (err error) {
	for _, pipe := range []struct {
		at   **sys.Pipe
		what string
	}{{&p.in, keptIn}, {&p.out, keptOut}} {
		if *pipe.at != nil {
			continue
		}
		if *pipe.at, err = sys.NewPipe(); err != nil {
			return err
		}
		p.keep.put(pipe.what, (*pipe.at).Handle())
	}
	return nil
}

// close closes the pipes, and says how many descriptors they had.
func (p *pipes) close() int {
	for _, pipe := range []*sys.Pipe{p.in, p.out} {
		if pipe != nil {
			_ = pipe.Close()
		}
	}
	return p.files()
}

// files is how many descriptors the pipes have.
func (p *pipes) files() (n int) {
	for _, pipe := range []*sys.Pipe{p.in, p.out} {
		if pipe != nil {
			n += pipeFiles / 2
		}
	}
	return n
}

// receive moves n bytes, which have come into the pipe from a client, to the inbox.
func (p *pipes) receive(n int) error { return p.fill(p.in, p.log.Inbox().Begin(n)) }

func (p *pipes) fill(in *sys.Pipe, place []byte) error {
	for len(place) > 0 {
		n, err := in.Read(place)
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		place = place[n:]
	}
	p.log.Inbox().Ready()
	return nil
}

// load puts the next bytes for a client into the pipe, unless there are some
// already, and reports whether there are any.
func (p *pipes) load() (bool, error) {
	if p.log.Loaded() > 0 {
		return true, nil
	}
	next := p.log.Peek()
	if len(next) == 0 {
		return false, nil
	}
	n, err := p.out.Write(next)
	p.log.Load(n)
	return n > 0, err
}

// skip gives up what is spooled, and what is in the pipe to clients, which is empty
// then. unread is as in [spool.Log.Skip].
func (p *pipes) skip(unread int) (int64, error) {
	piped := p.log.Loaded()
	n := p.log.Skip(unread)
	return n, p.drain(piped)
}

// giveBack has what a client that has left may not have read come again, and says how
// much that is.
func (p *pipes) giveBack() (int, error) {
	piped := p.log.Loaded()
	n := p.log.Return()
	if n == 0 {
		return 0, nil
	}
	return n, p.drain(piped)
}

// drain takes what is in the pipe to clients out of it.
func (p *pipes) drain(piped int) error {
	for waste := make([]byte, piped); piped > 0; {
		got, err := p.out.Read(waste[:piped])
		if err == nil && got == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		piped -= got
	}
	return nil
}

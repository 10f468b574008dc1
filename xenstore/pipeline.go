package xenstore

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// Pipeline sends requests one after the other without waiting for the answers,
// so that many of them take as long as one. The daemon does them in their order,
// also those after one that it refuses. A Pipeline belongs to one goroutine, and
// ends with Wait.
type Pipeline struct {
	nodes
	waiting []promise
	err     error // of a request that could not be sent
}

// promise is a request that was sent.
type promise struct {
	*request
	path string
}

// Pipeline begins one inside of the transaction.
func (t *Tx) Pipeline() *Pipeline { return &Pipeline{nodes: t.nodes} }

// Write is [Tx.Write].
func (p *Pipeline) Write(path, value string) {
	p.send(wire.Write, path, append(wire.JoinNUL(path), value...))
}

// Mkdir is [Tx.Mkdir].
func (p *Pipeline) Mkdir(path string) { p.send(wire.Mkdir, path, wire.JoinNUL(path)) }

// Remove is [Tx.Remove].
func (p *Pipeline) Remove(path string) { p.send(wire.Rm, path, wire.JoinNUL(path)) }

// SetPerms is [Tx.SetPerms].
func (p *Pipeline) SetPerms(path string, perms wire.Perms) {
	p.send(wire.SetPerms, path, append(wire.JoinNUL(path), wire.JoinNUL(perms.Strings()...)...))
}

func (p *Pipeline) send(op wire.Type, path string, payload []byte) {
	if p.err != nil {
		return
	}
	if err := ValidPath(path); err != nil {
		p.err = &Error{Op: op, Path: path, Errno: syscall.EINVAL, Detail: err.Error()}
		return
	}
	r, err := p.submit(op, path, payload)
	if err != nil {
		p.err = err
		return
	}
	p.waiting = append(p.waiting, promise{r, path})
}

// Wait waits for all answers and returns the first error.
func (p *Pipeline) Wait(ctx context.Context) error {
	var first error
	for _, r := range p.waiting {
		_, err := p.c.await(ctx, r.request, r.path)
		if r.msg.Type == wire.Rm && errors.Is(err, fs.ErrNotExist) {
			err = nil // as in Remove
		}
		if first == nil {
			first = err
		}
	}
	p.waiting = nil
	if first == nil {
		first = p.err
	}
	return first
}

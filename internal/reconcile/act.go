package reconcile

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xenbus"
)

// actLimit is how long one step may take: a guest has ten seconds to close its end.
const actLimit = 30 * time.Second

// atOnce is how many domains are dealt with at a time.
const atOnce = 16

func (s *step) key() key { return key{s.DomID, s.Name} }

// carryOut does the steps, each domain by itself: a guest that does not answer
// holds up nobody else. What goes makes room first.
func (r *Reconciler) carryOut(ctx context.Context, steps []step) {
	for _, do := range []func(context.Context, *step) error{r.takeAway, r.give} {
		byDomain := make(map[uint16][]*step)
		for i := range steps {
			byDomain[steps[i].DomID] = append(byDomain[steps[i].DomID], &steps[i])
		}
		var g errgroup.Group
		g.SetLimit(atOnce)
		for _, mine := range byDomain {
			g.Go(func() error {
				for _, s := range mine {
					r.act(ctx, s, do)
				}
				return nil
			})
		}
		g.Wait()
	}
}

func (r *Reconciler) act(ctx context.Context, s *step, do func(context.Context, *step) error) {
	limited, cancel := context.WithTimeout(ctx, actLimit)
	defer cancel()
	err := do(limited, s)
	if err == nil || ctx.Err() != nil {
		return
	}
	if alive, _ := r.Store.Exists(ctx, "/local/domain/"+s.dom.ID.String()); !alive {
		s.Action, s.Problem = Waiting, "the domain has ended"
		return
	}
	s.Action, s.Problem = Failed, err.Error()
}

func (r *Reconciler) takeAway(ctx context.Context, s *step) error {
	if !s.drop {
		return nil
	}
	r.offers.stop(s.key())
	err := r.tools.Detach(ctx, s.dom, s.Name)
	if errors.Is(err, toolstack.ErrNoChannel) {
		return nil // somebody was faster
	}
	return err
}

func (r *Reconciler) give(ctx context.Context, s *step) error {
	switch s.Action {
	case Attached, Replaced:
		c, err := r.tools.Declare(ctx, s.dom, s.want.Spec, s.File)
		if err != nil {
			return err
		}
		s.have = c
	case Kept:
		if s.Line > 0 && s.have.DeclaredIn != s.File {
			if err := r.tools.Redeclare(ctx, s.dom, s.have, s.File); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	if f := s.have.FrontendState; f != nil && *f == int(xenbus.Initialising) {
		r.offers.start(r, s)
	}
	return nil
}

// offers are channels that their guests have not looked at yet, each with a
// goroutine that sees to it; see [toolstack.Toolstack.Announce].
type offers struct {
	mu  sync.Mutex
	all map[key]*offer
}

type offer struct {
	devid int
	stop  context.CancelFunc
	done  chan struct{}
}

// announcements bounds how often a guest is offered a channel: it may have no
// driver for it. The pauses between them double from a second.
const announcements = 6

// boot is how long a channel is left alone that was there before its guest ran: a
// guest that boots, or is restored, looks by itself. To take the frontend away
// meanwhile would only disturb.
const boot = 30 * time.Second

// start has a channel offered to its guest again and again, once for each channel.
func (o *offers) start(r *Reconciler, s *step) {
	k := s.key()
	o.mu.Lock()
	defer o.mu.Unlock()
	if had := o.all[k]; had != nil && had.devid == s.have.DevID {
		return
	}
	if o.all == nil {
		o.all = make(map[key]*offer)
	}
	var wait time.Duration
	if r.seen[s.dom.ID].fresh {
		wait = boot
	}
	ctx, cancel := context.WithCancel(r.running)
	this := &offer{devid: s.have.DevID, stop: cancel, done: make(chan struct{})}
	o.all[k] = this
	r.wg.Go(func() {
		defer close(this.done)
		defer cancel()
		r.announce(ctx, s.dom, s.have, wait)
	})
}

// stop ends the offers of a channel; when it returns, nobody touches its nodes.
func (o *offers) stop(k key) {
	o.mu.Lock()
	this := o.all[k]
	delete(o.all, k)
	o.mu.Unlock()
	if this != nil {
		this.stop()
		<-this.done
	}
}

// keep ends the offers of channels that are no longer declared.
func (o *offers) keep(rows []Row) {
	o.mu.Lock()
	var gone []key
	for k := range o.all {
		if !slices.ContainsFunc(rows, func(r Row) bool { return k == key{r.DomID, r.Name} }) {
			gone = append(gone, k)
		}
	}
	o.mu.Unlock()
	for _, k := range gone {
		o.stop(k)
	}
}

// announce offers a channel to its guest until that has looked, after a wait.
func (r *Reconciler) announce(ctx context.Context, d toolstack.Domain, c toolstack.Channel, wait time.Duration) {
	pause := time.Second
	for range announcements {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		now, err := r.tools.Find(ctx, d, c.Name)
		if err != nil || now.DevID != c.DevID || now.FrontendState == nil || *now.FrontendState != int(xenbus.Initialising) {
			return
		}
		if err := r.tools.Announce(ctx, now); err != nil {
			return
		}
		wait, pause = pause, 2*pause
	}
}

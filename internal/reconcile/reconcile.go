// Package reconcile gives domains the channels that drop-in files declare, when a
// domain appears, by whichever toolstack, and when the files change; and takes away
// what is no longer declared.
//
// It only ever takes away what it has made: such channels are marked in xenstore,
// where neither guests nor driver domains can write, so that the next daemon knows
// them too. What a file that cannot be read any more has declared stays as it is.
//
// A reconciler looks at everything anew whenever anything may have changed, and
// does what is missing. So it makes no difference when it is killed, and there is
// nothing to be remembered but when to try again.
package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenchan/xenchan/channel/declared"
	"github.com/xenchan/xenchan/channel/domcfg"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenstore"
)

// Config is what a reconciler needs.
type Config struct {
	Store *xenstore.Store
	// RunDir is where sockets without a path of their own are.
	RunDir string
	// Dir is the directory of the drop-in files.
	Dir string
	Log *slog.Logger
}

// Bounds of the pause before something that has failed is tried again.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// Reconciler keeps a host's channels as declared. Its state belongs to the
// goroutine of Run, but for what others ask it through channels and atomics.
type Reconciler struct {
	Config
	tools *toolstack.Toolstack

	reload  chan struct{} // capacity 1: read the files anew
	changed chan struct{} // capacity 1: something in xenstore has changed
	// released has capacity 1: a domain is gone.
	released chan struct{}
	asked    chan request
	last     atomic.Pointer[Report]

	// idle says that nothing is declared, nor is anything there that was: then a new
	// domain is not looked at, which costs its toolstack time where both share a CPU.
	idle bool

	set      *declared.Set
	mistakes domcfg.Errors
	seen     map[xen.DomID]*domainSeen
	failed   map[key]failure
	known    map[key]Row // as they were logged
	offers   offers
	running  context.Context // of Run, for what outlasts a pass
	wg       sync.WaitGroup
}

// key names a channel of a domain.
type key struct {
	dom  uint16
	name string
}

// failure is when to try again what has failed.
type failure struct {
	problem string
	pause   time.Duration
	next    time.Time
}

// request is to apply the files, now.
type request struct {
	dry    bool
	answer chan answer // capacity 1
}

type answer struct {
	report Report
	err    error
}

// New makes a reconciler, which reads the files and does nothing until it is Run.
func New(c Config) *Reconciler {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Reconciler{
		Config: c, tools: &toolstack.Toolstack{Store: c.Store, RunDir: c.RunDir},
		reload: make(chan struct{}, 1), changed: make(chan struct{}, 1), released: make(chan struct{}, 1), asked: make(chan request),
		set: &declared.Set{}, seen: make(map[xen.DomID]*domainSeen),
		failed: make(map[key]failure), known: make(map[key]Row),
	}
	empty := newReport(nil)
	r.last.Store(&empty)
	r.load()
	return r
}

// Reload has the files read anew, soon. Those with an error are passed over.
func (r *Reconciler) Reload() { poke(r.reload) }

// Report is what the last look has found and done.
func (r *Reconciler) Report() Report { return *r.last.Load() }

// Apply reads the files anew, makes it so, and says what it did. When anything is
// wrong with the files nothing changes.
func (r *Reconciler) Apply(ctx context.Context, dry bool) (Report, error) {
	q := request{dry: dry, answer: make(chan answer, 1)}
	select {
	case r.asked <- q:
	case <-ctx.Done():
		return Report{}, ctx.Err()
	}
	select {
	case a := <-q.answer:
		return a.report, a.err
	case <-ctx.Done():
		return Report{}, ctx.Err()
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run reconciles until the context ends, when it returns nil, or xenstore is lost.
// In any domain but the control domain it does nothing: only that one may.
func (r *Reconciler) Run(ctx context.Context) error {
	self, err := r.Store.Read(ctx, "domid")
	if err != nil {
		return fmt.Errorf("ask xenstore which domain this is: %w", err)
	}
	if self != "0" {
		return r.refuse(ctx, self)
	}
	ctx, stop := context.WithCancel(ctx)
	defer r.wg.Wait()
	defer stop()
	r.running = ctx
	for event, to := range map[string]chan struct{}{"@introduceDomain": r.changed, "@releaseDomain": r.released} {
		w, err := r.Store.Watch(ctx, event)
		if err != nil {
			return fmt.Errorf("watch %s: %w", event, err)
		}
		defer w.Close()
		r.follow(w, to)
	}
	defer r.forget(nil)
	wait, err := r.pass(ctx, false)
	for err == nil && ctx.Err() == nil {
		wait, err = r.next(ctx, wait)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// refuse does nothing until the context ends but say why.
func (r *Reconciler) refuse(ctx context.Context, self string) error {
	for {
		select {
		case q := <-r.asked:
			q.answer <- answer{err: fmt.Errorf("this is domain %s, and only the control domain gives channels to others", self)}
		case <-ctx.Done():
			return nil
		}
	}
}

// next waits for a reason to look again, at most for a time unless that is 0, and
// looks. Like pass it says how long to wait after that.
func (r *Reconciler) next(ctx context.Context, wait time.Duration) (time.Duration, error) {
	var again <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		again = timer.C
	}
	select {
	case <-again:
	case <-r.changed:
		if r.idle {
			return wait, nil
		}
	case <-r.released:
		if r.idle {
			return wait, r.sweep(ctx)
		}
	case <-r.reload:
		r.load()
	case q := <-r.asked:
		report, wait, err := r.apply(ctx, q.dry, wait)
		q.answer <- answer{report, err}
		if errors.Is(err, errFiles) {
			err = nil
		}
		return wait, err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return r.pass(ctx, false)
}

// load reads the files. What is wrong with them is logged when it is new.
func (r *Reconciler) load() {
	set, err := declared.ReadDir(r.Dir)
	if err != nil {
		r.Log.Error("declared channels stay as they are", "error", err)
		return
	}
	mistakes := set.Check()
	for _, m := range mistakes {
		if !slices.ContainsFunc(r.mistakes, func(o *domcfg.Error) bool { return o.String() == m.String() }) {
			r.Log.Error("drop-in file", "error", m.String())
		}
	}
	r.set, r.mistakes = set, mistakes
}

// errFiles says that the directory of the files cannot be read.
var errFiles = errors.New("nothing was read")

// apply is Apply, in the goroutine of Run. Where it does not look, the wait stays.
func (r *Reconciler) apply(ctx context.Context, dry bool, wait time.Duration) (Report, time.Duration, error) {
	set, err := declared.ReadDir(r.Dir)
	if err != nil {
		return Report{}, wait, fmt.Errorf("%w: %w", errFiles, err)
	}
	if mistakes := set.Check(); len(mistakes) > 0 {
		report := newReport(mistakes)
		r.mistakes = mistakes // for those who ask later; the channels stay
		was := r.Report()
		was.Mistakes = report.Mistakes
		r.last.Store(&was)
		return report, wait, nil
	}
	if dry {
		report, err := r.foresee(ctx, set)
		return report, wait, err
	}
	r.set, r.mistakes = set, nil
	wait, err = r.pass(ctx, true)
	return r.Report(), wait, err
}

// foresee says what would become of these files.
func (r *Reconciler) foresee(ctx context.Context, set *declared.Set) (Report, error) {
	domains, err := r.look(ctx)
	report := newReport(nil)
	report.DryRun = true
	for _, s := range plan(set, domains, r.RunDir) {
		report.Channels = append(report.Channels, s.Row)
	}
	sortRows(report.Channels)
	return report, err
}

// pass looks at everything and does what is to be done; what has failed a moment
// ago only when it is pressed. It says after which time to look again at the
// latest; 0 is never.
func (r *Reconciler) pass(ctx context.Context, pressed bool) (time.Duration, error) {
	domains, err := r.look(ctx)
	if err != nil {
		return 0, err
	}
	steps := plan(r.set, domains, r.RunDir)
	r.idle = len(r.set.Files) == 0 && len(r.set.Broken) == 0 && !anyDeclared(domains)
	if pressed {
		clear(r.failed)
	}
	r.hold(steps)
	r.carryOut(ctx, steps)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	report := newReport(r.mistakes)
	for _, s := range steps {
		report.Channels = append(report.Channels, s.Row)
	}
	sortRows(report.Channels)
	r.last.Store(&report)
	r.log(report.Channels)
	r.offers.keep(report.Channels)
	return r.retries(report.Channels), nil
}

func sortRows(rows []Row) {
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.DomID, b.DomID), cmp.Compare(a.Name, b.Name))
	})
}

// hold keeps back what has failed and is not to be tried yet.
func (r *Reconciler) hold(steps []step) {
	for i := range steps {
		s := &steps[i]
		f, failed := r.failed[s.key()]
		if failed && time.Now().Before(f.next) && (s.Action == Attached || s.Action == Detached || s.Action == Replaced) {
			s.Action, s.Problem, s.drop = Failed, f.problem, false
		}
	}
}

// retries says when to try again what has failed.
func (r *Reconciler) retries(rows []Row) (wait time.Duration) {
	now, still := time.Now(), make(map[key]failure)
	for _, row := range rows {
		if row.Action != Failed {
			continue
		}
		k := key{row.DomID, row.Name}
		f := r.failed[k]
		if !f.next.After(now) { // it was tried
			f = failure{problem: row.Problem, pause: min(max(2*f.pause, firstRetry), lastRetry)}
			f.next = now.Add(f.pause)
		}
		still[k] = f
		if left := f.next.Sub(now); wait == 0 || left < wait {
			wait = left
		}
	}
	r.failed = still
	return wait
}

// log says what has changed since the last look, each thing once.
func (r *Reconciler) log(rows []Row) {
	now := make(map[key]Row, len(rows))
	for _, row := range rows {
		k := key{row.DomID, row.Name}
		now[k] = row
		was, seen := r.known[k]
		log := r.Log.With("domain", row.Domain, "domid", row.DomID, "channel", row.Name, "file", row.File)
		switch {
		case row.Action == Attached, row.Action == Detached, row.Action == Replaced:
			log.Info("declared channel is " + string(row.Action))
		case row.Action == was.Action && row.Problem == was.Problem:
		case row.Bad():
			log.Warn("declared channel: "+string(row.Action), "error", row.Problem)
		case row.Action == Kept && seen && was.Bad():
			log.Info("declared channel is as it should be")
		}
	}
	r.known = now
}

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/spool"
)

// spoolDir is where the spools are, in RunDir: DOMID-DEVID, for this user alone.
// No domain's sockets are there, as they would be with a likelier name.
const spoolDir = "daemon.spool"

// spools are the files behind the spools of all channels. A file is as old as the
// channel's nodes, however often the daemon ends and is started meanwhile, and a
// file's label says which channel that is.
type spools struct {
	dir *sys.Dir

	mu   sync.Mutex
	used map[string]bool // by a device of this daemon; guarded by mu
}

// openSpools opens the directory, and makes it if need be. RunDir must exist.
func openSpools(runDir string) (*spools, error) {
	path, err := filepath.Abs(runDir)
	if err != nil {
		return nil, err
	}
	base, err := sys.OpenDir(path)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	if err := base.Mkdir(spoolDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	info, err := base.Stat(spoolDir)
	if err != nil {
		return nil, err
	}
	if int(info.UID) != os.Geteuid() || info.Perm&0o077 != 0 {
		return nil, fmt.Errorf("%s/%s is not this user's alone (owner %d, mode %04o): it holds what guests say, see to it that its mode is 0700",
			path, spoolDir, info.UID, info.Perm)
	}
	dir, err := base.Sub(spoolDir)
	if err != nil {
		return nil, err
	}
	return &spools{dir: dir, used: make(map[string]bool)}, nil
}

func (s *spools) close() error { return s.dir.Close() }

// sweep removes the files of channels that are no more.
func (s *spools) sweep(keep map[string]bool) error {
	files, err := os.ReadDir(s.dir.ProcPath("."))
	if err != nil {
		return err
	}
	for _, f := range files {
		if !keep[f.Name()] {
			err = errors.Join(err, s.remove(f.Name()))
		}
	}
	return err
}

// remove removes the file of a channel that is no more, unless another channel
// has it already.
func (s *spools) remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used[name] {
		return nil
	}
	if err := s.dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// spoolFile is a log and the file that it is in.
type spoolFile struct {
	*spool.Log
	resumed bool         // an earlier daemon has begun it
	close   func() error // once nobody uses the log any more
	files   int          // descriptors
}

// open opens the spool of a channel: what an earlier daemon left in it, if that
// belongs to the very same channel, or else an empty one. A spool that cannot be
// in a file is in this process's memory instead: the channel works, until the
// daemon ends.
func (s *spools) open(name, label string, spec channel.Spec, log *slog.Logger) (spoolFile, error) {
	policy := spool.DropOldest
	if spec.Overflow == channel.Block {
		policy = spool.Block
	}
	s.mu.Lock()
	s.used[name] = true
	s.mu.Unlock()
	f, err := s.openFile(name, label, int(spec.Spool), policy, log)
	if err == nil {
		return f, nil
	}
	s.unuse(name)
	log.Error("what the guest says is kept in this process only, and lost when it ends", "error", err)
	if err := s.remove(name); err != nil { // or its bytes would come back later, out of order
		log.Error("a useless spool stays", "error", err)
	}
	l, err := spool.New(int(spec.Spool), policy)
	return spoolFile{Log: l, close: func() error { return nil }}, err
}

const (
	// always is how many bytes a spool may grow by as long as there are any.
	always = 32 << 10
	// othersShare is the part of the file system with the spools, mostly all of /run,
	// that they leave to others, whatever guests say and nobody reads.
	othersShare = 8
)

// leaveRoom says why a spool may not grow by n bytes.
func leaveRoom(in *sys.Dir, n int64) error {
	if n <= always {
		return nil
	}
	free, all, err := in.Space()
	if err == nil && free-n < all/othersShare {
		err = fmt.Errorf("%d bytes of %d are free where the spools are, and some are left to others: %w", free, all, syscall.ENOSPC)
	}
	return err
}

func (s *spools) unuse(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.used, name)
}

func (s *spools) openFile(name, label string, size int, policy spool.Overflow, log *slog.Logger) (spoolFile, error) {
	h, fresh, err := s.dir.OpenSized(name, int64(spool.RegionSize(size)))
	if err != nil {
		return spoolFile{}, err
	}
	m, err := sys.Map(sys.Extent{File: h, Len: spool.RegionSize(size)})
	if err != nil {
		return spoolFile{}, errors.Join(err, h.Close())
	}
	held := &heldSpool{spools: s, name: name, log: log, m: m}
	// The file's own descriptor is not needed any more, but on old kernels.
	if errors.Is(m.Populate(0, 1), syscall.EINVAL) {
		held.file = h
	} else if err := h.Close(); err != nil {
		return spoolFile{}, errors.Join(err, m.Close())
	}
	memory := spool.Memory{Bytes: m.Bytes(), Reserve: held.reserve, Release: held.release}
	l, err := spool.Open(memory, size, policy, label)
	resumed := err == nil
	if errors.Is(err, spool.ErrUnusable) {
		if !fresh {
			log.Info("an old spool is not this channel's and is discarded", "reason", err)
		}
		l, err = spool.Format(memory, size, policy, label)
	}
	if err != nil {
		return spoolFile{}, errors.Join(err, m.Close(), h.Close())
	}
	if p := l.Positions(); p.Spooled > 0 {
		log.Info("the spool holds what an earlier daemon took", "bytes", p.Spooled, "dropped", p.Dropped)
	}
	f := spoolFile{Log: l, resumed: resumed, close: held.close}
	if held.file != nil {
		f.files = 1
	}
	return f, nil
}

// heldSpool is the mapping of a file with a spool.
type heldSpool struct {
	spools *spools
	name   string
	log    *slog.Logger
	m      *sys.Mapping
	file   *sys.Handle // nil where the mapping is enough
	warned time.Time   // the log calls reserve once at a time
}

// reserve sees to it that the spool can grow there.
func (h *heldSpool) reserve(off, n int) error {
	err := leaveRoom(h.spools.dir, int64(n))
	if err == nil && h.file != nil {
		err = h.file.Allocate(int64(off), int64(n))
	} else if err == nil {
		err = h.m.Populate(off, n)
	}
	if err != nil && time.Since(h.warned) > time.Minute {
		h.warned = time.Now()
		h.log.Warn("no space for the spool to grow", "error", err)
	}
	return err
}

// release gives memory back that others may want; if that fails, it does not matter.
func (h *heldSpool) release(off, n int) {
	if h.file != nil {
		_ = h.file.Punch(int64(off), int64(n))
	} else {
		_ = h.m.Discard(off, n)
	}
}

func (h *heldSpool) close() error {
	h.spools.unuse(h.name)
	err := h.m.Close()
	if h.file != nil {
		err = errors.Join(err, h.file.Close())
	}
	return err
}

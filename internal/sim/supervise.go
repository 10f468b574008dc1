package sim

import (
	"path/filepath"
	"time"

	"github.com/xenchan/xenchan/internal/fdstore"
)

const (
	// A daemon that has lived that long is started again at once.
	settled = 100 * time.Millisecond
	// restartPause is for one that has not, as it may end again at once.
	restartPause = 50 * time.Millisecond
)

// supervise keeps a daemon running, as systemd would: what it has on the host, and
// its clients, are still there for the next one.
func (h *Host) supervise() (err error) {
	if h.manager, err = fdstore.NewManager(filepath.Join(h.cfg.Dir, "notify.sock")); err != nil {
		return err
	}
	h.wg.Go(func() {
		for h.running.Err() == nil {
			begin := time.Now()
			err := h.runDaemon()
			if h.running.Err() != nil {
				return
			}
			h.cfg.Log.Warn("the daemon has ended and is started again", "error", err)
			if time.Since(begin) < settled {
				select {
				case <-time.After(restartPause):
				case <-h.running.Done():
				}
			}
		}
	})
	return nil
}

// runDaemon returns when the daemon has ended.
func (h *Host) runDaemon() error {
	cmd := h.command("daemon")
	started, err := h.manager.Equip(cmd)
	if err != nil {
		return err
	}
	err = cmd.Start()
	started()
	if err != nil {
		return err
	}
	_ = h.writePID("daemon", cmd.Process.Pid) // for those who look
	return cmd.Wait()
}

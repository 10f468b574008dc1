package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sys"
)

// Status is what a daemon knows of one channel and xenstore does not.
type Status struct {
	DomID       uint16             `json:"domid"`
	DevID       int                `json:"devid"`
	Guest       channel.GuestState `json:"guest"`
	Clients     int                `json:"clients"`
	GuestToHost uint64             `json:"guest_to_host_bytes"`
	HostToGuest uint64             `json:"host_to_guest_bytes"`
	Spooled     uint64             `json:"spooled_bytes"`
	Dropped     uint64             `json:"dropped_bytes"`
	// Problem says why clients cannot connect, if they cannot.
	Problem string `json:"problem,omitempty"`
}

// maxStatus bounds what a client of the status socket reads, in bytes.
const maxStatus = 64 << 20

func statusPath(runDir string) string { return filepath.Join(runDir, "daemon.sock") }

// lockRunDir sees to it that there is one daemon for a RunDir. The lock ends
// with the process, however it ends.
func (d *Daemon) lockRunDir() (io.Closer, error) {
	if err := os.MkdirAll(d.RunDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	lock, err := sys.LockFile(filepath.Join(d.RunDir, "daemon.lock"))
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, fmt.Errorf("a daemon is already running: it answers at %s", statusPath(d.RunDir))
	case err != nil:
		return nil, fmt.Errorf("lock the run directory: %w", err)
	}
	return lock, nil
}

// listenStatus opens the status socket in place of one that a daemon left
// behind that was killed.
func (d *Daemon) listenStatus() (net.Listener, error) {
	path := statusPath(d.RunDir)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("status socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("status socket: %w", err)
	}
	return l, nil
}

func (d *Daemon) serveStatus(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/channels", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(d.status())
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); ctx.Err() == nil {
		return fmt.Errorf("status socket: %w", err)
	}
	return ctx.Err()
}

func (d *Daemon) status() []Status {
	rows := []Status{}
	for _, dev := range d.snapshot() {
		if s, ok := dev.status(); ok {
			rows = append(rows, s)
		}
	}
	slices.SortFunc(rows, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.DomID, b.DomID), cmp.Compare(a.DevID, b.DevID))
	})
	return rows
}

// Query asks the daemon of a run directory for the state of its channels.
func Query(ctx context.Context, runDir string) ([]Status, error) {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", statusPath(runDir))
		},
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://daemon/v1/channels", nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("no daemon answers at %s: %w", statusPath(runDir), err)
	}
	defer resp.Body.Close()
	var rows []Status
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxStatus)).Decode(&rows); err != nil {
		return nil, fmt.Errorf("the daemon's answer: %w", err)
	}
	return rows, nil
}

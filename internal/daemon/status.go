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
	"strings"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/standin"
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
	// Skipped bytes were given up for clients that begin from now.
	Skipped uint64 `json:"skipped_bytes"`
	// Observers see what the guest sends, and are no clients.
	Observers int `json:"observers"`
	// Waiting is how many clients wait for their turn, where that is known.
	Waiting *int `json:"waiting_clients"`
	// Losses are the latest, by whichever daemon.
	Losses []channel.Loss `json:"losses"`
	// Refused counts clients that the channel's "allow" does not name.
	Refused uint64 `json:"refused_clients"`
	// Problem says why clients cannot connect, if they cannot.
	Problem string `json:"problem,omitempty"`
}

// Fill adds to a channel's row what only the daemon knows.
func (s Status) Fill(row *channel.Info) {
	row.Guest, row.Clients, row.WaitingClients = s.Guest, &s.Clients, s.Waiting
	row.GuestToHost, row.HostToGuest, row.Spooled, row.Dropped = &s.GuestToHost, &s.HostToGuest, &s.Spooled, &s.Dropped
	row.Refused, row.Observers, row.Skipped = &s.Refused, &s.Observers, &s.Skipped
	row.Losses, row.ServedBy = s.Losses, channel.ServerDaemon
}

// maxStatus bounds what a client of the status socket reads, in bytes.
const maxStatus = 64 << 20

func statusPath(runDir string) string { return standin.Socket(runDir) }

// UID is the user that the daemon of a run directory runs as.
func UID(runDir string) (uint32, error) {
	info, err := os.Stat(statusPath(runDir))
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Uid, nil
}

// Listens says whether a daemon has the run directory, without asking it anything.
func Listens(ctx context.Context, runDir string) bool {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", statusPath(runDir))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

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
	mux.HandleFunc("GET /v1/daemon", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(d.about())
	})
	mux.HandleFunc("GET /v1/events", d.serveEvents)
	if d.DeviceModel == 0 {
		mux.HandleFunc("POST "+fmt.Sprintf(standin.Path, "{domid}"), d.serveStandIn)
		defer d.standIns.endAll()
	}
	for pattern, handle := range d.Routes {
		mux.HandleFunc(pattern, handle)
	}
	s := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	defer d.events.close()
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

// clientOf talks to the socket of a daemon.
func clientOf(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", socket)
		},
	}}
}

// ErrRefused says that a daemon answers, and refuses what it was asked.
var ErrRefused = errors.New("refused by the daemon")

// request sends a request without a body. The caller closes the answer's.
func request(ctx context.Context, c *http.Client, socket, method, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://daemon"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("no daemon answers at %s: %w", socket, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, fmt.Errorf("%w at %s: %s: %s", ErrRefused, socket, resp.Status, strings.TrimSpace(string(why)))
	}
	return resp.Body, nil
}

// Call sends a request to the daemon of a run directory, and decodes its answer.
func Call(ctx context.Context, runDir, method, path string, into any) error {
	return call(ctx, statusPath(runDir), method, path, into)
}

func call(ctx context.Context, socket, method, path string, into any) error {
	c := clientOf(socket)
	defer c.CloseIdleConnections()
	body, err := request(ctx, c, socket, method, path)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxStatus)).Decode(into); err != nil {
		return fmt.Errorf("the daemon's answer: %w", err)
	}
	return nil
}

// Query asks the daemon of a run directory for the state of its channels.
func Query(ctx context.Context, runDir string) ([]Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var rows []Status
	if err := Call(ctx, runDir, http.MethodGet, "/v1/channels", &rows); err != nil {
		return nil, err
	}
	return rows, nil
}

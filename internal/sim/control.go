package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
)

// The control socket does for an embedded host what xl does for a real one: a
// request is posted to it as JSON, and the domain comes back.
const (
	controlURL = "/v1/domain"
	maxRequest = 1 << 16 // bytes
)

// request asks for one thing; create takes a name and a uuid, the others a domid.
type request struct {
	Do    string    `json:"do"` // create, unpause, destroy or reboot
	DomID xen.DomID `json:"domid,omitempty"`
	Name  string    `json:"name,omitempty"`
	UUID  string    `json:"uuid,omitempty"`
}

func controlPath(dir string) string { return filepath.Join(dir, "control.sock") }

// serveControl begins to take requests.
func (h *Host) serveControl(ctx context.Context) error {
	path := controlPath(h.cfg.Dir)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control socket: %w", err)
	}
	l, err := sys.ListenUnix(ctx, "unix", path, 0o600)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+controlURL, func(w http.ResponseWriter, r *http.Request) {
		var want request
		err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&want)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		switch d, err := h.do(r.Context(), want); {
		case errors.Is(err, toolstack.ErrNoDomain):
			http.Error(w, err.Error(), http.StatusNotFound)
		case err != nil:
			http.Error(w, err.Error(), http.StatusConflict)
		default:
			_ = json.NewEncoder(w).Encode(d)
		}
	})
	h.control = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	h.wg.Go(func() { _ = h.control.Serve(l) }) // ends by Shutdown
	return nil
}

func (h *Host) do(ctx context.Context, r request) (toolstack.Domain, error) {
	d := toolstack.Domain{ID: r.DomID}
	switch r.Do {
	case "create":
		return h.CreateDomain(Domain{Name: r.Name, UUID: r.UUID})
	case "unpause":
		return d, h.UnpauseDomain(ctx, r.DomID)
	case "destroy":
		return d, h.DestroyDomain(ctx, r.DomID)
	case "reboot":
		return h.RebootDomain(ctx, r.DomID)
	}
	return d, fmt.Errorf("an embedded host cannot %q", r.Do)
}

// Client asks the embedded host that runs in Dir for what xl does on a real one.
type Client struct{ Dir string }

// Create makes a domain and leaves it paused. Its channels are not made.
func (c Client) Create(ctx context.Context, name, uuid string) (toolstack.Domain, error) {
	return c.ask(ctx, request{Do: "create", Name: name, UUID: uuid})
}

// Unpause starts the guest of a domain.
func (c Client) Unpause(ctx context.Context, id xen.DomID) error {
	_, err := c.ask(ctx, request{Do: "unpause", DomID: id})
	return err
}

// Destroy ends a domain at once.
func (c Client) Destroy(ctx context.Context, id xen.DomID) error {
	_, err := c.ask(ctx, request{Do: "destroy", DomID: id})
	return err
}

// Reboot ends a domain and makes it again, with a new domid and no channels.
func (c Client) Reboot(ctx context.Context, id xen.DomID) error {
	_, err := c.ask(ctx, request{Do: "reboot", DomID: id})
	return err
}

func (c Client) ask(ctx context.Context, want request) (d toolstack.Domain, err error) {
	body, err := json.Marshal(want)
	if err != nil {
		return d, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sim"+controlURL, bytes.NewReader(body))
	if err != nil {
		return d, err
	}
	resp, err := (&http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", controlPath(c.Dir))
		},
	}}).Do(req)
	if err != nil {
		return d, fmt.Errorf("the embedded host in %s does not answer: %w", c.Dir, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxRequest))
	if err != nil {
		return d, err
	}
	switch said := strings.TrimSpace(string(answer)); resp.StatusCode {
	case http.StatusOK:
		return d, json.Unmarshal(answer, &d)
	case http.StatusNotFound:
		return d, fmt.Errorf("%w: %v", toolstack.ErrNoDomain, want.DomID)
	default:
		return d, errors.New(said)
	}
}

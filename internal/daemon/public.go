package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
)

// maxPublic bounds the connections to the public socket: everybody may make some.
const maxPublic = maxObservers + 16

// publicPath is the socket for whoever is let in to a channel. Everybody can connect
// to it; each request says which channel it is about, and is answered only if who
// asks may be a client of that.
func publicPath(runDir string) string { return filepath.Join(runDir, "daemon.public.sock") }

// peer is who made a request.
type peer = sys.Cred

type peerKey struct{}

// listenPublic opens the public socket in place of one that was left behind.
func (d *Daemon) listenPublic(ctx context.Context) (net.Listener, error) {
	at := publicPath(d.RunDir)
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("public socket: %w", err)
	}
	l, err := sys.ListenUnix(ctx, "unix", at, openToAll)
	if err != nil {
		return nil, fmt.Errorf("public socket: %w", err)
	}
	return &bounded{UnixListener: l, places: make(chan struct{}, maxPublic)}, nil
}

func (d *Daemon) servePublic(ctx context.Context, l net.Listener) error {
	var requests gate
	mux := http.NewServeMux()
	for pattern, handle := range map[string]func(http.ResponseWriter, *http.Request, *device, peer){
		"GET /v1/channels/{domid}/{devid}/observe": d.serveObserver,
		"POST /v1/channels/{domid}/{devid}/skip":   d.serveSkip,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if !requests.enter() {
				return
			}
			defer requests.leave()
			if dev, who, ok := d.admitted(w, r); ok {
				handle(w, r, dev, who)
			}
		})
	}
	s := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second, MaxHeaderBytes: 8 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if cred, err := sys.PeerCred(c.(*boundedConn).UnixConn); err == nil {
				ctx = context.WithValue(ctx, peerKey{}, cred)
			}
			return ctx
		},
		ErrorLog: log.New(io.Discard, "", 0), // anybody can fill it
	}
	defer requests.close()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); ctx.Err() == nil {
		return fmt.Errorf("public socket: %w", err)
	}
	return ctx.Err()
}

// admitted is the channel that a request is about, if who asks may be its client.
// Otherwise it has answered.
func (d *Daemon) admitted(w http.ResponseWriter, r *http.Request) (*device, peer, bool) {
	who, ok := r.Context().Value(peerKey{}).(peer)
	if !ok {
		http.Error(w, "nobody knows who asks", http.StatusForbidden)
		return nil, who, false
	}
	dev := d.find(r.PathValue("domid"), r.PathValue("devid"), r.URL.Query().Get("name"))
	if dev == nil {
		http.Error(w, "there is no such channel", http.StatusNotFound)
		return nil, who, false
	}
	select {
	case <-dev.whenSettled(): // it has its place, or cannot have it
	case <-r.Context().Done():
		return nil, who, false
	}
	switch err := dev.mayConnect(who); {
	case errors.Is(err, errNoPlace):
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return nil, who, false
	case err != nil:
		dev.log.Warn("client refused", "uid", who.UID, "gid", who.GID, "pid", who.PID, "error", err, "refused_so_far", dev.refused.Add(1))
		http.Error(w, err.Error(), http.StatusForbidden)
		return nil, who, false
	}
	return dev, who, true
}

// find is the device that serves a channel, nil if there is none.
func (d *Daemon) find(domid, devid, name string) *device {
	d.mu.Lock()
	dev := d.devices[path.Join(d.root, domid, devid)]
	d.mu.Unlock()
	if dev == nil {
		return nil
	}
	dev.mu.Lock()
	defer dev.mu.Unlock()
	if dev.backend == nil || dev.spec.Name != name {
		return nil
	}
	return dev
}

// gate lets requests in until it is closed, and then waits for the last one.
type gate struct {
	mu     sync.Mutex
	closed bool // guarded by mu
	inside sync.WaitGroup
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.inside.Add(1)
	}
	return !g.closed
}

func (g *gate) leave() { g.inside.Done() }

func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.inside.Wait()
}

// bounded accepts no more connections than there are places.
type bounded struct {
	*net.UnixListener
	places chan struct{}
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.AcceptUnix()
		if err != nil {
			return nil, err
		}
		select {
		case b.places <- struct{}{}:
			return &boundedConn{UnixConn: c, leave: sync.OnceFunc(func() { <-b.places })}, nil
		default: // it has to try again
			_ = c.Close()
		}
	}
}

type boundedConn struct {
	*net.UnixConn
	leave func()
}

func (c *boundedConn) Close() error {
	defer c.leave()
	return c.UnixConn.Close()
}

package unixsock_test

import (
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/endpoint/endpointtest"
	"github.com/xenchan/xenchan/endpoint/unixsock"
)

func listen(t *testing.T, cfg unixsock.Config) *unixsock.Endpoint {
	t.Helper()
	e, err := unixsock.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

func TestEndpoint(t *testing.T) {
	endpointtest.Run(t, endpointtest.Harness{
		New: func(t *testing.T) endpoint.Endpoint {
			return listen(t, unixsock.Config{Path: filepath.Join(t.TempDir(), "a.sock")})
		},
		Dial: func(t *testing.T, path string) io.ReadWriteCloser { return dial(t, path) },
	})
}

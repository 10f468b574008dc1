package pty_test

import (
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/endpoint/endpointtest"
	"github.com/xenchan/xenchan/endpoint/pty"
)

func open(t *testing.T, cfg pty.Config) *pty.Endpoint {
	t.Helper()
	e, err := pty.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func dial(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestEndpoint(t *testing.T) {
	endpointtest.Run(t, endpointtest.Harness{
		New:    func(t *testing.T) endpoint.Endpoint { return open(t, pty.Config{}) },
		Dial:   func(t *testing.T, path string) io.ReadWriteCloser { return dial(t, path) },
		Shared: true,
	})
}

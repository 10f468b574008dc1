//go:build xen

package realstore

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flavour finds out which daemon this dom0 was booted with.
func flavour(t *testing.T) storetest.Flavour {
	t.Helper()
	for name, f := range map[string]storetest.Flavour{"xenstored": storetest.C, "oxenstored": storetest.OCaml} {
		programs, err := filepath.Glob("/proc/[0-9]*/comm")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range programs {
			if comm, err := os.ReadFile(p); err == nil && string(comm) == name+"\n" {
				return f
			}
		}
	}
	t.Fatal("no xenstored runs in this dom0")
	return 0
}

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Flavour: flavour(t),
		Open: func(t *testing.T) io.ReadWriteCloser {
			t.Helper()
			stream, device, err := xenstore.OpenStream(context.Background(), "")
			if err != nil {
				t.Fatal(err)
			}
			if device {
				t.Fatal("no socket of xenstored")
			}
			return stream
		},
	})
}
